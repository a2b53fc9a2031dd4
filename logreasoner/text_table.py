"""Lay out tables of text for a terminal."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int | None = None, indent: str = "") -> str:
    """Align the columns of a table: the first `left` columns (None: all) to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if left is None or column < left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
