"""How every command of this project starts, fails and stops."""

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

KEYS = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)  # environment variables that are called so
SHORTEST = 8  # characters of a key; what is shorter may be a word of any text


class UserError(Exception):
    """A mistake the user can mend: the message says which file, line or id, what is wrong and what to do."""


class NotYet(UserError):
    """Nothing is wrong, but the command has to be run again later; its own exit status (EX_TEMPFAIL) says so."""

    status = 75


def parser(module: str, description: str, examples: str) -> argparse.ArgumentParser:
    """An argument parser whose --help ends with examples that can be pasted."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def plain(text: str, keep: str = "") -> str:
    """Text of a log, a model or a server without what a terminal would obey; `keep` are characters that may stay."""
    return "".join(char if char.isprintable() or char in keep else
                   char.encode("unicode_escape", "surrogatepass").decode() for char in text)


def hidden(text: str, *keys: str) -> str:
    """A text without keys: those given, and the values of environment variables that are called like one."""
    named = (value for name, value in os.environ.items() if KEYS.search(name))
    for key in sorted({key.strip() for key in (*keys, *named)}, key=len, reverse=True):
        if len(key) >= SHORTEST:
            text = text.replace(key, "[key]")
    return text


def _said(error: Exception) -> str:
    return hidden(plain(str(error), keep="\n\t"))


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
        sys.stdout.reconfigure(errors="backslashreplace")  # half a character, or a terminal that knows few
    try:
        main(arguments.parse_args(argv))
    except NotYet as error:
        print(f"not yet: {_said(error)}", file=sys.stderr)
        sys.exit(error.status)
    except UserError as error:
        sys.exit(f"error: {_said(error)}")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = plain(f"{error.filename}: ") if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or _said(error)}; mend that and run the same command again")
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
