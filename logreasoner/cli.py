"""Start, fail and stop every command of this project in the same way."""

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

KEYS = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)  # in names of environment variables
SHORTEST = 8  # characters of a key; a shorter value may be a word of any text


class UserError(Exception):
    """A mistake the user can fix: the message says which file, line or id, what is wrong and what to do."""


class NotYet(UserError):
    """Nothing is wrong, but the command has to be run again later: exit status 75 (EX_TEMPFAIL)."""

    status = 75


def positive(text: str) -> int:
    """Read a whole number of at least 1, for argparse."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def names(text: str) -> list[str]:
    """Split a comma-separated option, for argparse."""
    return [part for part in re.split(r"[,\s]+", text) if part]


def known_names(text: str, known: Sequence[str]) -> list[str] | None:
    """Split an option at commas and blanks into known names, which may hold such themselves; None for another one."""
    name = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    parts = rf"\s*({name})(?:[,\s]+|$)"
    return re.findall(parts, text) if name and re.fullmatch(rf"(?:{parts})+", text) else None


OPTIONS: dict[str, dict[str, Any]] = {  # those that mean the same in every command
    "run": {"help": "a declared run: a folder of build/runs"},
    "model": {"help": "a name of models.yaml"},
    "stage": {"help": "a stage of stages.yaml, or base where a model is asked"},
    "limit": {"type": positive, "help": "a stratified subset: so many instances of a task and source"},
    "samples": {"type": positive, "default": 1, "help": "votes for each instance (default: 1)"},
}


def parser(module: str, description: str, examples: str, required: Sequence[str] = (),
           optional: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build an argument parser with some of OPTIONS, whose --help ends with examples that can be pasted."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(arguments, required, optional)
    return arguments


def add_options(arguments: argparse.ArgumentParser, required: Sequence[str] = (), optional: Sequence[str] = ()) -> None:
    """Add some of OPTIONS to a parser, by name."""
    for name in (*required, *optional):
        arguments.add_argument(f"--{name}", required=name in required, **OPTIONS[name])


def escape_terminal(text: str, keep: str = "") -> str:
    """Escape what a terminal would obey in text of a log, a model or a server, except the characters of `keep`."""
    return "".join(char if char.isprintable() or char in keep else
                   char.encode("unicode_escape", "surrogatepass").decode() for char in text)


def hide_keys(text: str, *keys: str) -> str:
    """Replace keys in a text: those given, and the values of environment variables whose names match KEYS."""
    values = (value for name, value in os.environ.items() if KEYS.search(name))
    for key in sorted({key.strip() for key in (*keys, *values)}, key=len, reverse=True):
        if len(key) >= SHORTEST:
            text = text.replace(key, "[key]")
    return text


def _message(error: Exception) -> str:
    return hide_keys(escape_terminal(str(error), keep="\n\t"))


def stop_on_sigterm() -> None:
    """Let SIGTERM and a closed terminal stop this program as Ctrl-C does, unless they are ignored (nohup)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def run(
    arguments: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Parse argv and call main; a user's mistake becomes one line on stderr and exit status 1 (NotYet: 75)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a lone surrogate, or a terminal that is not UTF-8
    try:
        main(arguments.parse_args(argv))
    except NotYet as error:
        print(f"not yet: {_message(error)}", file=sys.stderr)
        sys.exit(error.status)
    except UserError as error:
        sys.exit(f"error: {_message(error)}")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = escape_terminal(f"{error.filename}: ") if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or _message(error)}; fix that and run the same command again")
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
