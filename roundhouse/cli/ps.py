"""`roundhouse ps`: what a running server does."""

from __future__ import annotations

from typing import Any

from roundhouse.cli.common import ConfigOption, JSONOption, URLOption, print_json, server_state, server_url

__all__ = ["ps"]

_COLUMNS = ("replica", "model", "engine", "busy", "breaker", "tokens/s", "")


def ps(
    url: URLOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Every replica of a running server: its engine, its slots, its breaker, its speed."""
    state = server_state(server_url(url, config))
    if as_json:
        print_json(state)
        return
    rows = [_COLUMNS, *(_row(replica) for replica in state["replicas"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for worker in state.get("workers", ()):
        print(f"worker {worker['pid']}: {worker['requests']} requests, {worker['connections']} connections")
    print(f"{state['active']} requests run or wait, {state['waiting']} of them for a slot")


def _row(replica: dict[str, Any]) -> tuple[str, ...]:
    slots = f"{replica['busy']}/{replica['slots']}"
    speed = f"{replica['tokens_per_s']:.0f}" if replica["tokens_per_s"] else ""
    loading = f" {replica['loaded']:.0%}" if replica["loaded"] is not None and replica["loaded"] < 1 else ""
    cells = (replica["replica"], replica["model"], replica["engine"] + loading, slots, replica["breaker"], speed)
    return (*cells, "; ".join(said for said in (replica["objection"], *replica["notes"]) if said))
