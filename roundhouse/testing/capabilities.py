"""What each provider can do, as a table: `python -m roundhouse.testing.capabilities FILE` renews the one in a page."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from roundhouse.core.model import Capabilities
from roundhouse.providers.base import Endpoint
from roundhouse.providers.registry import OURS, create

__all__ = ["renewed", "table"]

_BEGIN, _END = "<!-- capabilities: make docs -->\n", "<!-- end of capabilities -->\n"


def table() -> str:
    """A column for each provider of ours, a row for each capability, and the sampling settings of each."""
    able = {name: create(name, Endpoint(name, "http://localhost")).capabilities for name in OURS}
    rows = [["", *(f"`{name}`" for name in able)], ["---"] * (len(able) + 1)]
    for field in fields(Capabilities):
        if field.name != "sampling":
            said = ["yes" if getattr(one, field.name) else "no" for one in able.values()]
            rows.append([field.name.replace("_", " "), *said])
    everything = sorted(set().union(*(one.sampling for one in able.values())) - {"seed"})
    for name in everything:
        rows.append([f"`{name}`", *("yes" if name in one.sampling else "no" for one in able.values())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def renewed(page: str) -> str:
    """`page` with the table of now between its marks. Raises `ValueError` if it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError("the page has no place for the table of capabilities")
    return before + begin + table() + end + after


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(renewed(path.read_text()))
