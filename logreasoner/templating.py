"""Read the Jinja files of this project, and escape foreign text for Markdown and LaTeX.

Undefined names are errors, and control lines leave no blanks. HTML is escaped by Jinja (`autoescape=True`), text for
a terminal by logreasoner.cli.escape_terminal.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}"}


def markdown(value: Any) -> str:
    """Escape text on one line of Markdown: no character of it becomes markup or ends a table's cell."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~$&])", r"\\\1", " ".join(str(value).split()))


def fenced(text: str) -> str:
    """Return text as a Markdown code block that nothing inside can end."""
    fence = "`" * max(3, *(1 + len(ticks) for ticks in re.findall("`+", text)), 0)
    return f"{fence}text\n{text}\n{fence}"


def latex(value: Any) -> str:
    """Escape text on one line of LaTeX."""
    return "".join(LATEX.get(char, char) for char in " ".join(str(value).split()))


def environment(folder: Path | Sequence[Path], filters: Mapping[str, Callable[[Any], Any]], **options: Any
                ) -> jinja2.Environment:
    """Read templates of a folder, or of the first of several that has one; options are Jinja's own.

    They have the filters `md`, `fenced`, `tex` and those given.
    """
    result = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, **{
        "trim_blocks": True, "lstrip_blocks": True, "autoescape": False, **options})
    result.filters.update({"md": markdown, "fenced": fenced, "tex": latex, **filters})
    return result
