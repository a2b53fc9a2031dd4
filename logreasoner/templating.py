"""How every Jinja file of this project is read: undefined names are errors, and control lines leave no blanks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2


def environment(folder: Path, filters: dict[str, Callable[[Any], Any]], **options: Any) -> jinja2.Environment:
    """The files of a folder with the filters given; options are jinja2's own."""
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined,
                               trim_blocks=True, lstrip_blocks=True, autoescape=False, **options)
    found.filters.update(filters)
    return found
