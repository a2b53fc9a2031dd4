"""BGL lines -> sessions as log anomaly papers read them: a regular expression a line, a data frame, iloc slices.

Arguments: log, output. Each line of the output has the messages and the label of a session.
"""

import json
import re
import sys

import pandas as pd

COLUMNS = ["Label", "Timestamp", "Date", "Node", "Time", "NodeRepeat", "Type", "Component", "Level", "Content"]
LINE = re.compile("^" + r"\s+".join(f"(?P<{name}>.*?)" for name in COLUMNS) + "$")


def main() -> None:
    """The loop."""
    rows = []
    with open(sys.argv[1], encoding="utf-8") as source:
        for line in source:
            match = LINE.search(line.strip())
            if match:
                rows.append([match.group(name) for name in COLUMNS])
    logs = pd.DataFrame(rows, columns=COLUMNS)
    logs["Label"] = logs["Label"].apply(lambda label: int(label != "-"))
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        for start in range(0, len(logs) - len(logs) % 20, 20):
            session = logs.iloc[start:start + 20]
            label = "abnormal" if session["Label"].max() else "normal"
            out.write(json.dumps({"log": session["Content"].tolist(), "label": label}) + "\n")


main()
