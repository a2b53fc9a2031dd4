"""Known vulnerabilities in what requirements/ pins, asked of an advisory service by pip-audit (make audit-deps).

Nothing is called clean that no service has answered for: pip-audit itself ends with "No known vulnerabilities found"
where a service knows none of the packages. Needs the tools of requirements/dev.txt.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from data_builders.doctor import pins
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.files import ROOT

FOUND, NOT_AUDITED = 1, 75  # exit statuses
STATUS = f"\n\nexit status: 0: all audited, nothing known; {FOUND}: advisories; {NOT_AUDITED}: not all audited"
FILES = ("core.lock.txt", "train.lock.txt", "train-gpu.txt", "serve-cpu.lock.txt", "serve-gpu.txt")


def asked(path: Path, service: str) -> tuple[list[dict[str, Any]], str]:
    """What the service says of each pin of a requirements file, and why some or all of it is not known ("" if it is).

    Raises UserError without pip-audit.
    """
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--progress-spinner", "off",
               "--no-deps", "--disable-pip", "--format", "json", "--requirement", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip_audit" in done.stderr:
        raise UserError("pip-audit is not installed here; make setup-dev brings it")
    try:
        found = list(json.loads(done.stdout)["dependencies"])
    except (ValueError, LookupError, TypeError):
        return [], cli.plain((done.stderr.strip().splitlines() or ["no answer"])[-1])
    return found, next((str(row["skip_reason"]) for row in found if "skip_reason" in row), "")


def reached(service: str) -> str:
    """Why the service answers for nothing, found out with one question; "" if it does answer."""
    name, version = next(iter(pins(ROOT / "requirements" / "core.txt").items()))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as one:
        one.write(f"{name}=={version}\n")
        one.flush()
        return asked(Path(one.name), service)[1]


def _main(given: argparse.Namespace) -> None:
    if why := reached(given.service):
        print(f"not audited: {why}. Nothing is known of {', '.join(FILES)}: run this where an advisory service answers",
              file=sys.stderr)
        sys.exit(NOT_AUDITED)
    advisories = unknown = 0
    for name in FILES:
        rows, why = asked(ROOT / "requirements" / name, given.service)
        bad = [(row["name"], row["version"], each) for row in rows for each in row.get("vulns", [])]
        skipped = [row["name"] for row in rows if "skip_reason" in row]
        print(f"{name}: {len(rows) - len(skipped)} audited, {len(bad)} advisories"
              + (f"; not audited: {', '.join(skipped) or 'all'} ({why})" if why else ""))
        for package, version, each in bad:
            mended = ", ".join(each["fix_versions"]) or "no version"
            print(cli.plain(f"  {package} {version}: {each['id']}, mended in {mended}"))
        advisories, unknown = advisories + len(bad), unknown + bool(why)
    sys.exit(FOUND if advisories else NOT_AUDITED if unknown else 0)


def main() -> None:
    """Audit the pins."""
    arguments = cli.parser("logreasoner.advisories", "Known vulnerabilities in the pinned dependencies." + STATUS, """
python -m logreasoner.advisories
python -m logreasoner.advisories --service osv""")
    arguments.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="who is asked (default: pypi)")
    cli.run(arguments, _main)


if __name__ == "__main__":
    main()
