"""`roundhouse keys`: who may ask a server. A running server takes changes within a second."""

from __future__ import annotations

import dataclasses
import time
from contextlib import closing
from typing import Annotated, Any

import typer

from roundhouse.access.keys import Key, KeyLimits, Role, new_key
from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.core.errors import ModelNotFound
from roundhouse.server.access import keys_of

__all__ = ["app"]

app = typer.Typer(help="Make, list and revoke the keys that a server asks for.", no_args_is_help=True)
_DAY_S = 86_400.0
_LONGEST_NAME = 100  # it stands in tables, labels of metrics and logs


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; each name once.")],
    role: Annotated[Role, typer.Option(help="A client asks models; an admin also sees and steers.")] = Role.CLIENT,
    route: Annotated[list[str] | None, typer.Option(help="A name for `model`; repeat it. Default: all.")] = None,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0 = no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="0 = no limit.")] = 0,
    concurrent: Annotated[int, typer.Option(min=0, help="Requests at once; 0 = no limit.")] = 0,
    days: Annotated[float, typer.Option(min=0, help="Valid for so long; 0 = for ever.")] = 0,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Make a key and show it, this once."""
    if not name.strip() or not name.isprintable():
        raise typer.BadParameter("name the key after whoever gets it, in letters that can be seen")
    if len(name) > _LONGEST_NAME:
        raise typer.BadParameter(f"a name has at most {_LONGEST_NAME} characters, and this one {len(name):,}")
    settings = settings_of(config)
    known = {*settings.routes, *(target.name for target in settings.targets)}
    for one in route or ():
        if known and one not in known:
            raise ModelNotFound(f'there is no route or target "{one}"; there are {", ".join(sorted(known))}', model=one)
    limits = KeyLimits(requests_per_minute, tokens_per_minute, concurrent)
    expires = time.time() + days * _DAY_S if days else 0.0
    key, secret = new_key(name, role, routes=tuple(route or ()), limits=limits, expires=expires)
    with closing(keys_of(settings)) as kept:
        kept.add(key)
    if as_json:
        print_json({**_shown(key), "key": secret, "file": str(kept.place)})
        return
    print(secret)
    tell(f'key "{name}" ({role.value}) is in {kept.place} as a hash; the secret above is not shown again')


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the keys that were made, without their secrets, which are not known any more."""
    with closing(keys_of(settings_of(config))) as kept:
        keys = kept.read()
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    if not keys:
        tell("there are no keys; a server on a loopback address then asks for none")
        return
    rows = [("name", "id", "role", "routes", "limits", "made"), *(_row(key) for key in keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name or id.")],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Remove a key: a running server refuses it within a second."""
    with closing(keys_of(settings_of(config))) as kept:
        key = kept.revoke(name)
    if as_json:
        print_json(_shown(key))
    else:
        print(f'key "{key.name}" is revoked')


def _shown(key: Key) -> dict[str, Any]:
    said = dataclasses.asdict(key)
    del said["digest"]
    return said


def _row(key: Key) -> tuple[str, ...]:
    per = {"requests/min": key.limits.requests_per_minute, "tokens/min": key.limits.tokens_per_minute}
    per["at once"] = key.limits.concurrent
    limits = ", ".join(f"{value:,} {unit}" for unit, value in per.items() if value) or "none"
    made = time.strftime("%Y-%m-%d", time.localtime(key.created))
    if key.expires:
        made += f", until {time.strftime('%Y-%m-%d', time.localtime(key.expires))}"
    return key.name, key.id, key.role.value, ", ".join(key.routes) or "all", limits, made
