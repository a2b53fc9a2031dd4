"""How every command of this project starts, fails and stops."""

import argparse
import sys
from collections.abc import Callable, Sequence


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


def run(
    arguments: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Parse argv and call main; a user's mistake becomes one line on stderr and exit status 1 (NotYet: 75)."""
    try:
        main(arguments.parse_args(argv))
    except NotYet as error:
        print(f"not yet: {error}", file=sys.stderr)
        sys.exit(error.status)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}; mend that and run the same command again")
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
