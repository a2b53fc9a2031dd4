"""Measure the named parts (all by default), store their rows in build/bench/, print and write the table.

Each part is a module of this package with measure(folder) -> rows; folder is a scratch folder that stays, so that
inputs that take long to make are made once. The page is made from every part's last measurement.
"""

import argparse
import importlib
import platform
from datetime import UTC, datetime
from pathlib import Path

from bench.measuring import Row
from logreasoner import cli
from logreasoner.files import BUILD, TEMPLATES, commit, read_json, write_json, writing
from logreasoner.templating import environment

PARTS = {
    "sessions": "Raw logs to sessions",
    "selection": "DPP selection",
    "startup": "Start-up and scoring",
    "generation": "Generation by vLLM",
    "training": "Training by LLaMA-Factory",
    "cpu": "A pretrained model on a CPU",
}
MEASURED = BUILD / "bench"


def machine() -> str:
    """Describe this machine: processor, cores, memory, Python."""
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return f"{cpu}, {cores} cores, {kib / 2**20:.0f} GiB, Python {platform.python_version()}"


def measure(part: str) -> None:
    """Run one part and store its rows."""
    folder = MEASURED / part
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = importlib.import_module(f"bench.{part}").measure(folder)
    write_json(MEASURED / f"{part}.json", {
        "rows": [row._asdict() for row in rows], "machine": machine(), "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")})


def page() -> str:
    """Render every part's last measurement as Markdown."""
    found = {part: read_json(MEASURED / f"{part}.json") for part in PARTS if (MEASURED / f"{part}.json").exists()}
    return environment(TEMPLATES, {}, keep_trailing_newline=True).get_template("speed.md.j2").render(
        parts=PARTS, found=found)


def _main(given: argparse.Namespace) -> None:
    for part in given.parts or PARTS:
        print(f"{PARTS[part]} ({part}) ...", flush=True)
        measure(part)
    text = page()
    with writing(given.out) as stream:
        stream.write(text)
    print(f"\n{text}\nwritten to {given.out}")


def main() -> None:
    """Measure speed."""
    arguments = cli.parser("bench", "Measure speed against peers and limits in the same run.", """
python -m bench
python -m bench sessions selection
python -m bench --out docs/speed.md""")
    arguments.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    arguments.add_argument("--out", type=Path, default=MEASURED / "speed.md", help="the page (default: %(default)s)")

    def run(given: argparse.Namespace) -> None:
        unknown = [part for part in given.parts if part not in PARTS]
        if unknown:
            raise cli.UserError(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
        _main(given)

    cli.run(arguments, run)


if __name__ == "__main__":
    main()
