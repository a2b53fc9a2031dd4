"""BGL lines -> labelled sessions of 20 messages by a bare loop: no ids, no checks. Arguments: log (also .gz), out."""

import json
import sys


def main() -> None:
    """The loop; in a function, where it is faster than in a module."""
    if sys.argv[1].endswith(".gz"):
        import gzip

        source = gzip.open(sys.argv[1], "rt", encoding="utf-8")  # noqa: SIM115
    else:
        source = open(sys.argv[1], encoding="utf-8")  # noqa: SIM115
    with source, open(sys.argv[2], "w", encoding="utf-8") as out:
        log, label = [], "normal"
        for line in source:
            fields = line.rstrip("\n").split(" ", 9)
            log.append(fields[9])
            if fields[0] != "-":
                label = "abnormal"
            if len(log) == 20:
                out.write(json.dumps({"log": log, "label": label}) + "\n")
                log, label = [], "normal"


main()
