"""The results as a page's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["renewed", "table"]

_BEGIN, _END = "<!-- scorecard: make faults -->\n", "<!-- end of scorecard -->\n"


def table(results: Sequence[Mapping[str, Any]], scale: float) -> str:
    """A row for each case, whole and streamed side by side; times as measured at `scale`."""
    rows = ["| the backend | the client is owed | whole | streamed |\n", "| --- | --- | --- | --- |\n"]
    for name in dict.fromkeys(result["case"] for result in results):
        both = {result["streaming"]: result for result in results if result["case"] == name}
        first = next(iter(both.values()))
        cells = [_cell(both.get(streaming)) for streaming in (False, True)]
        rows.append(f"| {first['about']} | {first['owed']} | {cells[0]} | {cells[1]} |\n")
    return f"All times multiplied by {scale:g}.\n\n" + "".join(rows)


def renewed(page: str, results: Sequence[Mapping[str, Any]], scale: float) -> str:
    """`page` with these results between its marks. Raises `ValueError` if it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError("the page has no place for the scorecard")
    return before + begin + table(results, scale) + end + after


def _cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    seconds = result["seen"]["seconds"] or result["seen"]["released_s"] or 0.0
    return f"**{result['fault']}**" if result["fault"] else f"passed, {seconds:.2f} s"
