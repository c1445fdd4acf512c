"""From sources to `Settings`: flags over `ROUNDHOUSE_*` over the file over defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import platformdirs

from roundhouse.config.rules import Faults, nearest
from roundhouse.config.schema import file_rule
from roundhouse.config.settings import (
    Auth,
    BreakerSettings,
    CheckSettings,
    ConfiguredKey,
    DriftSettings,
    HistorySettings,
    Licences,
    Limits,
    LogSettings,
    OtlpSettings,
    Replicas,
    Resources,
    Server,
    Settings,
    StateSettings,
    StoreSettings,
    TargetSettings,
    TelemetrySettings,
)
from roundhouse.config.source import Node, leaf, overlay, parse_yaml, read_file
from roundhouse.config.target import OPTIONS, SAMPLING, TYPES
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import ConfigError

T = TypeVar("T")
_COUNTS = {"failures", "refused", "share", "least", "probes"}

__all__ = ["Invalid", "find", "load", "load_mapping", "load_text", "schema"]

_SHORTEST_KEY = 20
_PREFIX = "ROUNDHOUSE_"
_NESTING = "__"
DEFAULT_ROUTE = "default"


@dataclasses.dataclass(eq=False)
class Invalid(ConfigError):
    """A configuration with faults. It reads as the first of them; `faults` are all, in the order of the file."""

    faults: tuple[ConfigError, ...] = ()


def schema(types: Sequence[str] = TYPES) -> dict[str, Any]:
    """JSON Schema (2020-12) of the file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Roundhouse configuration",
        **file_rule(types).schema(),
    }


def find(path: Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The file to read: `path`, `$ROUNDHOUSE_CONFIG`, `config/llm_config.yaml` here, the user's own; None = none."""
    if path is not None:
        return path
    if named := environ.get("ROUNDHOUSE_CONFIG"):
        return Path(named)
    own = platformdirs.user_config_path("roundhouse") / "config.yaml"
    return next((place for place in (cwd / "config" / "llm_config.yaml", own) if place.is_file()), None)


def load(
    path: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str],
    cwd: Path,
    types: Sequence[str] = TYPES,
) -> Settings:
    """The settings of the file that `find` finds, or defaults if there is none; raises `Invalid` or `ConfigError`.

    `flags` are by dotted key (`server.port`); None values are not set.
    """
    found = find(path, environ, cwd)
    root = read_file(found, environ) if found else Node({}, "defaults")
    return _settle(root, flags or {}, environ, types, needs_llm=found is not None)


def load_text(text: str, source: str = "text", *, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a YAML text; no environment overrides it."""
    return _settle(parse_yaml(text, source, environ or {}), {}, {}, TYPES, needs_llm=True)


def load_mapping(values: Mapping[str, Any], source: str = "configuration", *, types: Sequence[str] = TYPES) -> Settings:
    """The settings of a mapping of the file's shape."""
    return _settle(leaf(values, source), {}, {}, types, needs_llm=True)


def _settle(
    root: Node, flags: Mapping[str, Any], environ: Mapping[str, str], types: Sequence[str], *, needs_llm: bool
) -> Settings:
    source = root.source
    root = _overlaid(root, flags, environ)
    rule = file_rule(types)
    if not needs_llm:
        rule = dataclasses.replace(rule, required=())
    faults: Faults = []
    values = rule.check(root, "", faults) or {}
    llm = values.get("llm", {})
    settings = Settings(
        targets=_targets(llm.get("providers", []), root, faults),
        prompts=llm.get("prompts", ""),
        prompt_templates={name: _unended(text) for name, text in llm.get("prompt_templates", {}).items()},
        experiments=values.get("experiments", {}),
        limits=_filled(Limits, values.get("limits", {}), {"queue", "attempts"}),
        breaker=_filled(BreakerSettings, values.get("breaker", {}), _COUNTS),
        server=_server(values.get("server", {})),
        auth=_auth(values.get("auth", {}), root, faults),
        resources=Resources(**values.get("resources", {})),
        store=StoreSettings(**values.get("store", {})),
        state=StateSettings(**values.get("state", {})),
        licences=_licences(values.get("licences", {})),
        telemetry=_telemetry(values.get("telemetry", {}), root, faults),
        source=source,
        origins=_origins(root),
    )
    if not faults:
        settings = dataclasses.replace(settings, routes=_routes(settings, values, root, faults))
    if faults:
        faults.sort(key=lambda fault: (fault.source, fault.line, fault.column))
        raise Invalid(
            **{f.name: getattr(faults[0], f.name) for f in dataclasses.fields(ConfigError)}, faults=tuple(faults)
        )
    return settings


def _overlaid(root: Node, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Node:
    for name, text in sorted(environ.items()):
        if name.startswith(_PREFIX) and _NESTING in name:
            path = tuple(name.removeprefix(_PREFIX).lower().split(_NESTING))
            source = f"environment variable {name}"
            value = parse_yaml(f"value: {text}", source, {}).value["value"]
            root = overlay(root, path, dataclasses.replace(value, line=0, column=0))
    for key, value in flags.items():
        if value is not None:
            root = overlay(root, tuple(key.split(".")), leaf(value, f"flag --{key.rsplit('.', 1)[-1]}"))
    return root


def _filled(kind: Callable[..., T], values: Mapping[str, Any], unitless: set[str]) -> T:
    """Settings of `kind`, whose fields of time end in `_s` where the file's keys do not."""
    return kind(**{name if name in unitless else f"{name}_s": value for name, value in values.items()})


def _server(values: Mapping[str, Any]) -> Server:
    lists = {name: tuple(values.get(name, ())) for name in ("hosts", "origins")}
    times = ("head_timeout", "request_timeout", "stalled_timeout", "keep_alive_timeout", "drain")
    return Server(**{f"{name}_s" if name in times else name: value for name, value in {**values, **lists}.items()})


def _auth(values: Mapping[str, Any], root: Node, faults: Faults) -> Auth:
    keys = [
        ConfiguredKey(**{**entry, "routes": tuple(entry.get("routes", ()))})
        for entry in values.get("keys", ())
        if entry.keys() >= {"name", "key"}
    ]
    for key in keys:
        if len(key.key) < _SHORTEST_KEY:
            said = f'auth.keys: the key "{key.name}" is shorter than {_SHORTEST_KEY} characters and could be guessed'
            faults.append(_at(root, "name", key.name, said))
    return Auth(**{**values, "keys": tuple(keys)})


def _licences(values: Mapping[str, Any]) -> Licences:
    lists = {name: tuple(text.lower() for text in values[name]) for name in ("allow", "deny") if name in values}
    return Licences(**{**values, **lists})


def _telemetry(values: Mapping[str, Any], root: Node, faults: Faults) -> TelemetrySettings:
    history = _filled(HistorySettings, values.get("history", {}), {"enabled", "path", "most_mib"})
    log = dict(values.get("log", {}))
    if "redact" in log:
        log["redact"] = tuple(log["redact"])
    otlp = None
    if "otlp" in values:
        otlp = _filled(OtlpSettings, values["otlp"], {"endpoint", "headers", "sampling", "content"})
    return TelemetrySettings(history, LogSettings(**log), otlp, _drift(values.get("drift", {}), root, faults))


def _drift(values: Mapping[str, Any], root: Node, faults: Faults) -> DriftSettings:
    lists = {name: tuple(values[name]) for name in ("quality", "webhook_hosts") if name in values}
    times = ("apart", "avoid_for", "roll_back_within")
    given = {f"{name}_s" if name in times else name: value for name, value in values.items()}
    found = DriftSettings(**{**given, **lists})
    host = urlsplit(found.webhook).hostname
    if host is not None and host not in found.webhook_hosts:
        said = f"telemetry.drift.webhook: {host} is none of telemetry.drift.webhook_hosts; name it there if it is meant"
        faults.append(_at(root, "webhook", found.webhook, said))
    return found


def _unended(given: str | Mapping[str, str]) -> str | Mapping[str, str]:
    """Without the one line break that a YAML block ends with: a prompt that ends in `Answer:` must end there."""
    if isinstance(given, str):
        return given.removesuffix("\n")
    return {family: text.removesuffix("\n") for family, text in given.items()}


def _targets(entries: list[dict[str, Any]], root: Node, faults: Faults) -> tuple[TargetSettings, ...]:
    targets: list[TargetSettings] = []
    taken: dict[str, int] = {}
    for entry in entries:
        kind = entry.get("type", "")
        name = entry.get("name")
        if name is None:
            name = kind
            while name in taken:
                name = f"{kind}-{taken[kind] + 1}"
                taken[kind] += 1
        elif name in taken:
            faults.append(_at(root, "name", name, f'llm.providers: the name "{name}" stands twice; names must differ'))
        taken.setdefault(name, 1)
        targets.append(_target(name, kind, entry))
    return tuple(targets)


def _target(name: str, kind: str, entry: Mapping[str, Any]) -> TargetSettings:
    sampling = {key: entry[key] for key in SAMPLING if key in entry}
    if "stop" in sampling:
        sampling["stop"] = tuple(sampling["stop"])
    options = {key: entry[key] for key in OPTIONS.get(kind, ()) if key in entry}
    return TargetSettings(
        name=name,
        type=kind,
        model=entry.get("model", ""),
        family=entry.get("family", ""),
        endpoint=entry.get("endpoint", ""),
        slots=entry.get("slots", 0),
        timeout_s=entry.get("timeout"),
        sampling=Sampling(**sampling),
        api_key=entry.get("api_key", ""),
        headers=entry.get("headers", {}),
        executable=entry.get("executable", ""),
        env=entry.get("env", {}),
        replicas=Replicas(**entry.get("replicas", {})),
        ttl_s=entry.get("ttl"),
        pin=entry.get("pin", False),
        preload=entry.get("preload", False),
        check=CheckSettings(**entry.get("check", {})),
        options={**options, **entry.get("extra", {})},
    )


def _routes(settings: Settings, values: Mapping[str, Any], root: Node, faults: Faults) -> Mapping[str, tuple[str, ...]]:
    """Routes by name; `default` is `fallback_order`, or all targets in order."""
    names = [target.name for target in settings.targets]
    routes: dict[str, tuple[str, ...]] = {}
    asked = {DEFAULT_ROUTE: values.get("llm", {}).get("fallback_order", names), **values.get("routes", {})}
    for route, wanted in asked.items():
        key = (
            "llm.fallback_order"
            if route == DEFAULT_ROUTE and route not in values.get("routes", {})
            else f"routes.{route}"
        )
        routes[route] = tuple(
            "|".join(
                _resolve(name.strip(), settings.targets, f"{key}[{place}]", root, faults) for name in entry.split("|")
            )
            for place, entry in enumerate(wanted)
        )
        if route in names and routes[route] != (route,):
            faults.append(_at(root, None, route, f'{key}: "{route}" is the name of a target; give the route another'))
    return {route: targets for route, targets in routes.items() if targets}


def _resolve(name: str, targets: Sequence[TargetSettings], key: str, root: Node, faults: Faults) -> str:
    """A target's name, or a type that only one target has."""
    names = [target.name for target in targets]
    if name in names:
        return name
    of_type = [target.name for target in targets if target.type == name]
    if len(of_type) == 1:
        return of_type[0]
    if of_type:
        said = f"{len(of_type)} targets are of the type {name}; name one of {', '.join(of_type)}"
    else:
        said = f'there is no target "{name}"{nearest(name, names)}'
    faults.append(_at(root, None, name, f"{key}: {said}"))
    return name


def _at(root: Node, key: str | None, value: str, message: str) -> ConfigError:
    """An error at the last place where `value` is written (under `key`, if given)."""
    places: list[Node] = []

    def walk(node: Node, under: str) -> None:
        if isinstance(node.value, dict):
            for name, item in node.value.items():
                if name == value and key is None:
                    places.append(item)
                walk(item, name)
        elif isinstance(node.value, list):
            for item in node.value:
                walk(item, under)
        elif node.value == value and key in (None, under):
            places.append(node)

    walk(root, "")
    return (places[-1] if places else root).error(message)


def _origins(root: Node) -> dict[str, str]:
    found: dict[str, str] = {}

    def walk(node: Node, path: str) -> None:
        if isinstance(node.value, dict):
            for name, item in node.value.items():
                walk(item, f"{path}.{name}" if path else name)
        elif isinstance(node.value, list):
            for place, item in enumerate(node.value):
                walk(item, f"{path}[{place}]")
        else:
            found[path] = f"{node.source}:{node.line}" if node.line else node.source

    walk(root, "")
    return found
