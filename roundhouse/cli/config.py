"""`roundhouse config`: look at the configuration before it is used."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.config import Invalid, Settings, schema
from roundhouse.core.errors import ConfigError, TemplateError
from roundhouse.gateway.build import provider_types
from roundhouse.gateway.labels import current_catalog
from roundhouse.gateway.trials import designs_of

__all__ = ["app"]

app = typer.Typer(help="Check, describe and show the configuration.", no_args_is_help=True)
_SECRET_KEYS = {"api_key", "headers", "env", "key", "password"}
_LOGIN = re.compile(r"(://)[^/@\s]+@")  # a name and a password in a URL


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="The file; default: the one that would be used.")] = None,
    as_json: JSONOption = False,
) -> None:
    """Read the file and say everything that is wrong with it."""
    try:
        settings = settings_of(file)
        designs_of(settings, current_catalog(settings))
    except Invalid as error:
        _report(error.faults, as_json)
    except ConfigError as error:
        _report((error,), as_json)
    except TemplateError as error:
        _report((ConfigError(str(error), source=settings.source),), as_json)
    else:
        _say_valid(settings, as_json)


def _report(faults: tuple[ConfigError, ...], as_json: bool) -> None:
    if as_json:
        rows = [
            {"source": f.source, "line": f.line, "column": f.column, "key": f.key, "message": f.message} for f in faults
        ]
        print_json({"valid": False, "errors": rows})
    else:
        for fault in faults:
            tell(str(fault))
        tell(f"{len(faults)} error{'s' if len(faults) > 1 else ''}")
    sys.exit(2)


def _say_valid(settings: Settings, as_json: bool) -> None:
    routes = {name: list(targets) for name, targets in settings.routes.items()}
    if as_json:
        print_json({"valid": True, "source": settings.source, "routes": routes})
        return
    told = "; ".join(f"{name} → {', '.join(targets)}" for name, targets in routes.items())
    if not routes:
        told = "no targets are named; `roundhouse doctor` says what serves without"
    print(f"{settings.source} is valid: {told}")


@app.command("schema")
def show_schema() -> None:
    """Print the JSON Schema of the file, for editors."""
    print_json(schema(provider_types()))


@app.command()
def show(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Print the settings in effect, each with where it was set; secrets are not shown."""
    settings = settings_of(config)
    if as_json:
        print_json(_masked(msgspec.to_builtins(settings)))
        return
    print(f"source: {settings.source}")
    for name, targets in settings.routes.items():
        print(f"route {name}: {', '.join(targets)}")
    for section in (settings.limits, settings.server, settings.resources, settings.licences):
        title = type(section).__name__.lower()
        for field in dataclasses.fields(section):
            key = f"{title}.{field.name.removesuffix('_s')}"
            print(f"{key} = {getattr(section, field.name)}  ({settings.origins.get(key, 'default')})")
    if settings.state.url:
        print(f"state.url = {_masked(settings.state.url)}  ({settings.origins.get('state.url', '')})")
    for target in settings.targets:
        shown = _masked(msgspec.to_builtins(target))
        told = {name: value for name, value in shown.items() if value not in ("", None, {}, [], False)}
        print(f"target {told.pop('name')}: " + ", ".join(f"{name} = {value}" for name, value in told.items()))


def _masked(value: Any, key: str = "") -> Any:
    if key in _SECRET_KEYS and value:
        return dict.fromkeys(value, "***") if isinstance(value, dict) else "***"
    if isinstance(value, dict):
        return {name: _masked(item, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    if isinstance(value, str) and "@" in value:
        return _LOGIN.sub(r"\1***@", value)
    return value
