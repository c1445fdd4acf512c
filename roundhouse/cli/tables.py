"""Tables, sizes and times as people read them."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence

__all__ = ["ago", "megabytes", "print_csv", "print_table"]

_STEPS = ((86_400, "day"), (3600, "hour"), (60, "minute"))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; the last runs freely."""
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_csv(rows: Sequence[Mapping[str, object]]) -> None:
    """With a line of names, if there is a row. Cells that a spreadsheet would compute are made text."""
    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _text(str(value)) for key, value in row.items()} for row in rows)


def _text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def ago(when: float) -> str:
    """How long ago, for seconds since 1970; 0 = never."""
    if not when:
        return "never"
    passed = max(0.0, time.time() - when)
    for length, name in _STEPS:
        if count := int(passed // length):
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"
