"""Lay out tables and curves as text for a terminal."""

from collections.abc import Sequence
from statistics import fmean

BARS = "▁▂▃▄▅▆▇█"


def aligned(rows: Sequence[Sequence[str]], left: int | None = None, indent: str = "") -> str:
    """Align the columns of a table: the first `left` columns (None: all) to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if left is None or column < left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw finite numbers as a line of at most `width` bars, each the mean of equally many, from the least up."""
    count = min(width, len(values))
    means = [fmean(values[len(values) * place // count: len(values) * (place + 1) // count]) for place in range(count)]
    low, height = min(means, default=0.0), (max(means, default=0.0) - min(means, default=0.0)) or 1.0
    return "".join(BARS[round((mean - low) / height * (len(BARS) - 1))] for mean in means)
