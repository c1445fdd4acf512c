"""`roundhouse state`: where state lies, whether it answers, what waits for it; and files into a shared database."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.config import Settings
from roundhouse.core.errors import ConfigError, Error
from roundhouse.database import Address, examine
from roundhouse.database.journal import waiting_bytes
from roundhouse.gateway.keeping import address_of, cache_folder, history_place

__all__ = ["app", "state_told"]

app = typer.Typer(help="Where state lies: files of this user, or a database that servers share.", no_args_is_help=True)


def state_told(settings: Settings) -> dict[str, Any]:
    """Where state lies and whether it answers; waits some seconds at most."""
    address = address_of(settings)
    if address is None:
        return {"place": str(platformdirs.user_state_path("roundhouse")), "ok": True, "detail": "files of this user"}
    told: dict[str, Any] = {"place": str(address), "waiting_bytes": waiting_bytes(cache_folder(address))}
    try:
        version, schemas = examine(address)
    except Error as error:
        return {**told, "ok": False, "detail": str(error)}
    return {**told, "ok": True, "detail": f"it answers, PostgreSQL {version}", "schemas": schemas}


@app.command()
def status(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Say where state lies, whether it answers, and what waits on this machine for it. Exit code 1 if it does not."""
    told = state_told(settings_of(config))
    if as_json:
        print_json(told)
    else:
        print(f"{told['place']}: {told['detail']}" if told["ok"] else told["detail"])
        for part, version in told.get("schemas", {}).items():
            print(f"  {part}: version {version}")
        if waiting := told.get("waiting_bytes"):
            print(f"  {waiting / 1024:.0f} KiB wait on this machine until it takes them")
    if not told["ok"]:
        sys.exit(1)


@app.command("import")
def bring(
    source: Annotated[
        Path | None, typer.Option("--from", help="A state folder of a server; default: this user's.")
    ] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Put experiments, history and keys of files into the shared database. Nothing is removed; twice is as once."""
    from roundhouse.gateway.moving import move
    from roundhouse.server.access import key_file

    settings = settings_of(config)
    address = address_of(settings)
    if address is None:
        said = "the configuration names no database to import into: state: {url: postgresql://...}"
        raise ConfigError(said, source=settings.source, key="state.url")
    folder = source or platformdirs.user_state_path("roundhouse")
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}", param_hint="--from")
    done = move(folder, key_file(settings), address)
    if as_json:
        print_json(asdict(done))
        return
    print(f"{address} has {done.exposures} exposures, {done.requests} requests and {done.keys} keys of {folder}")
    for said in done.left_out:
        tell(f"left out: {said}")
    if not isinstance(history_place(settings), Address):
        tell(f"note: telemetry.history.path is set, so history goes on being written to {history_place(settings)}")
