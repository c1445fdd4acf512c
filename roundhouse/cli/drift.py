"""`roundhouse drift`: which targets of a running server have become slower or worse."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from roundhouse.cli.common import ConfigOption, JSONOption, URLOption, order, print_json, server_url
from roundhouse.cli.tables import ago, print_table

__all__ = ["drift"]

_HEADS = ("target", "metric", "", "usual", "now", "")
_NAMES = {"first_token_s": "first token", "per_token_s": "time per token", "error": "failed attempts"}


def drift(
    relearn: Annotated[str, typer.Option(help="Take what this target does from now on for usual.")] = "",
    url: URLOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Which targets of a running server have become slower or worse than they used to be."""
    root = server_url(url, config)
    if relearn:
        told = order(root, "/admin/drift/relearn", {"target": relearn})
        if as_json:
            print_json(told)
        else:
            print(f"what {relearn} does from now on is usual")
        return
    told = order(root, "/admin/drift")
    if as_json:
        print_json(told)
    elif told["series"]:
        print_table(_HEADS, [_row(one) for one in told["series"]])
    else:
        print("no target has answered yet")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    said = f"since {ago(one['since'])}" if one["since"] else ""
    if one["state"] == "learning":
        said = f"{one['learned_of']} requests so far"
    cells = (_value(one["metric"], one["usual"]), _value(one["metric"], one["now"]))
    state = one["state"].upper() if one["state"] == "drifted" else one["state"]
    return (
        one["target"],
        _NAMES.get(one["metric"], one["metric"]),
        state,
        *cells,
        "; ".join(filter(None, (said, one["done"]))),
    )


def _value(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    if metric.endswith("_s"):
        return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
    return f"{value:.1%}" if metric == "error" else f"{value:.2f}"
