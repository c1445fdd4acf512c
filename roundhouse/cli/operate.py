"""`roundhouse switch`, `load`, `unload`, `reload`: change what a running server serves."""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated, Any

import typer

from roundhouse.cli.common import (
    ConfigOption,
    JSONOption,
    URLOption,
    load_said,
    order,
    print_json,
    progress,
    server_state,
    server_url,
    tell,
)

__all__ = ["load", "reload", "switch", "unload"]

_POLL_S = 0.2
_CHANGES = ("added", "removed", "exchanged", "adjusted", "renewed", "at_the_next_start")
_LOAD_LIMIT_S = 3600.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 30s, 5m or 1h")
    return float(found[1]) * _UNIT_S[found[2]]


def switch(
    route: Annotated[str, typer.Argument(help="The name that clients ask for.")],
    target: Annotated[str, typer.Argument(help="The target that shall serve it.")],
    canary: Annotated[float, typer.Option(min=0, max=99, help="Send it this percentage of the requests first.")] = 0.0,
    for_: Annotated[str, typer.Option("--for", help="How long the canary lasts.")] = "5m",
    drain_timeout: Annotated[
        str, typer.Option(help="How long the old target may take to finish; default: as long as a request may.")
    ] = "",
    check: Annotated[str, typer.Option(help="Ask this before it takes over; default: the target's own check.")] = "",
    expect: Annotated[str, typer.Option(help="What the answer must contain.")] = "",
    url: URLOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Have another target serve a route of a running server, with no request lost.

    Exit code 1 if it could not be done: then the old target serves on.
    """
    body: dict[str, Any] = {"route": route, "target": target}
    if canary:
        body["canary"] = {"percent": canary, "for_s": _seconds(for_)}
    if drain_timeout:
        body["drain_timeout_s"] = _seconds(drain_timeout)
    if check or expect:
        body["check"] = {"prompt": check, "expect": expect}
    root = server_url(url, config)
    told = order(root, "/admin/switch", body, limit_s=_LOAD_LIMIT_S)
    told = _followed(root, told, quiet=as_json)
    if as_json:
        print_json(told)
    elif told["error"]:
        tell(f"roundhouse: {told['what']} was undone: {told['error']}")
    else:
        held = f", requests were held for {told['held_s']:.1f} s" if told["held_s"] else ""
        print(f"{told['what']}: done in {told['reached_s']['done']:.1f} s, {told['mode']}{held}")
    if told["error"]:
        sys.exit(1)


def load(
    target: Annotated[str, typer.Argument(help="The target.")],
    url: URLOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Have a target's engines ready before anyone asks."""
    root = server_url(url, config)
    with progress(f"loading {target}", lambda: load_said(server_state(root, limit_s=1.0)["memory"])):
        told = order(root, "/admin/load", {"target": target}, limit_s=_LOAD_LIMIT_S)
    _told(told, f"{target} is loaded", as_json)


def unload(
    target: Annotated[str, typer.Argument(help="The target.")],
    url: URLOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Stop a target's engines once they are idle; the next request starts them again."""
    _told(
        order(server_url(url, config), "/admin/unload", {"target": target}, limit_s=_LOAD_LIMIT_S),
        f"{target} is unloaded",
        as_json,
    )


def reload(url: URLOption = "", config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Have a running server read its configuration again; a bad one changes nothing."""
    root = server_url(url, config)
    told = order(root, "/admin/reload", {}, limit_s=_LOAD_LIMIT_S)
    changed = [name for name in _CHANGES if told[name]]
    if not as_json:
        for name in changed:
            print(f"{name.replace('_', ' ')}: {', '.join(told[name])}")
        if not changed and not told["switches"]:
            print("it is in effect as it is: nothing has changed")
    ended = [_followed(root, {"id": number, "over": False}, quiet=as_json) for number in told["switches"]]
    if as_json:
        print_json({**told, "switches": ended})
    else:
        for one in ended:
            print(f"{one['what']}: " + (f"undone: {one['error']}" if one["error"] else "done"))
    if any(one["error"] for one in ended):
        sys.exit(1)


def _followed(root: str, told: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Wait until a switch is over, and say on the way how far it is."""
    said = ""
    while True:
        if not quiet and (state := _progress(told)) != said and state:
            tell(state)
            said = state
        if told["over"]:
            return told
        time.sleep(_POLL_S)
        told = order(root, f"/admin/switch/{told['id']}")


def _progress(told: dict[str, Any]) -> str:
    state = str(told.get("state", ""))
    if state == "canary":
        counts = told["canary"]["requests"]
        return f"canary: {counts['new']} requests to the new target, {counts['old']} to the old one"
    return "" if told["over"] else state


def _told(told: dict[str, Any], said: str, as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        print(said)
