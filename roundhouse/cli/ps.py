"""`roundhouse ps`: what a running server does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Annotated, Any

import typer

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of
from roundhouse.core.errors import ConnectFailed

__all__ = ["ps"]

_LIMIT_S = 5.0
_COLUMNS = ("replica", "model", "engine", "busy", "breaker", "tokens/s", "")


def ps(
    url: Annotated[str, typer.Option(help="The server; default: that of the configuration.")] = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Every replica of a running server: its engine, its slots, its breaker, its speed."""
    server = settings_of(config).server
    root = (url or f"http://{server.host}:{server.port}").rstrip("/").removesuffix("/v1")
    state = _state(root)
    if as_json:
        print_json(state)
        return
    rows = [_COLUMNS, *(_row(replica) for replica in state["replicas"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{state['active']} requests run or wait, {state['waiting']} of them for a slot")


def _row(replica: dict[str, Any]) -> tuple[str, ...]:
    slots = f"{replica['busy']}/{replica['slots']}"
    speed = f"{replica['tokens_per_s']:.0f}" if replica["tokens_per_s"] else ""
    cells = (replica["replica"], replica["model"], replica["engine"], slots, replica["breaker"], speed)
    return (*cells, replica["objection"])


def _state(root: str) -> dict[str, Any]:
    """Raises `ConnectFailed` if no server of ours answers there."""
    if not root.startswith(("http://", "https://")):
        raise typer.BadParameter("--url must begin with http:// or https://")
    try:
        with urllib.request.urlopen(f"{root}/admin/state", timeout=_LIMIT_S) as response:  # noqa: S310 - checked above
            state: dict[str, Any] = json.load(response)
            return state
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectFailed(
            f"no Roundhouse server answers at {root}: {reason}; is `roundhouse serve` running?"
        ) from error
