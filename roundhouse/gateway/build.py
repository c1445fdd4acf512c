"""Settings -> targets: which engine serves each, where it answers, which client speaks to it. Starts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from roundhouse.config import Limits, Settings, TargetSettings
from roundhouse.config.schema import TYPES
from roundhouse.core.errors import ConfigError
from roundhouse.core.model import Capabilities
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.engines.process import Ready
from roundhouse.gateway.demo import DEMO_MODEL, DEMO_NOTICE, DEMO_OPTIONS, DEMO_SAMPLING, demo_gguf
from roundhouse.providers.base import Endpoint, LLMProvider
from roundhouse.providers.registry import create, known
from roundhouse.resources import hardware
from roundhouse.resources.memory import Estimate, check_fit, estimate_llamacpp
from roundhouse.routing.slots import Slots
from roundhouse.routing.target import Target, TokenLimits
from roundhouse.store.headers import read_gguf

__all__ = ["build_targets", "capabilities_of", "connector", "notices", "plan_llamacpp", "provider_types"]

_ATTACHED_SLOTS = 64
_URLS = {"ollama": "http://localhost:11434", "vllm": "http://localhost:8000"}


def notices(settings: Settings) -> list[str]:
    """What a user should be told of these settings before anything is answered."""
    said = []
    for target in settings.targets:
        if is_demo(target):
            said.append(DEMO_NOTICE)
        asked = {"replicas": target.replicas.max > 1, "ttl": target.ttl_s is not None, "pin": target.pin}
        unheeded = [name for name, is_set in asked.items() if is_set]
        if unheeded:
            said.append(f'target "{target.name}": {", ".join(unheeded)} has no effect in this version')
    return list(dict.fromkeys(said))


def provider_types() -> tuple[str, ...]:
    """The types a configuration may name: those of the contract, and what third parties have installed."""
    return tuple(dict.fromkeys((*TYPES, *known())))


def is_demo(entry: TargetSettings) -> bool:
    return entry.model == DEMO_MODEL and not entry.endpoint


def build_targets(settings: Settings) -> list[Target]:
    """One target per entry; raises `ConfigError` for an entry that no provider can serve."""
    return [_target(entry, settings) for entry in settings.targets]


def _target(entry: TargetSettings, settings: Settings) -> Target:
    if entry.type not in known():
        raise ConfigError(
            f'target "{entry.name}": no provider "{entry.type}" is installed; there are {", ".join(known())}',
            source=settings.source,
        )
    limits = settings.limits
    engine = _engine(entry, settings)
    token_limits = TokenLimits(
        first_token_s=entry.timeout_s or limits.first_token_s,
        between_tokens_s=entry.timeout_s or limits.between_tokens_s,
    )
    at_once = entry.options.get("n_parallel", launch.DEFAULT_SLOTS) if engine.managed else _ATTACHED_SLOTS
    slots = Slots(at_once, limits.queue)
    connect = connector(entry, limits, managed=engine.managed)
    sampling = entry.sampling.over(DEMO_SAMPLING) if is_demo(entry) else entry.sampling
    return Target(entry.name, entry.model, engine, connect, slots, sampling, token_limits)


def _engine(entry: TargetSettings, settings: Settings) -> Engine:
    """Attached where an endpoint is given, or the backend is never started by us."""
    load_s = settings.limits.load_s
    if entry.type != "llamacpp" or entry.endpoint:
        url = entry.endpoint or _URLS.get(entry.type, "")
        if not url:
            raise ConfigError(
                f'target "{entry.name}" needs an endpoint: the URL where it answers', source=settings.source
            )
        return Engine(entry.name, launch.attach(url, entry.api_key))
    return Engine(entry.name, lambda: plan_llamacpp(entry, settings)[0], load_limit_s=load_s)


def plan_llamacpp(entry: TargetSettings, settings: Settings) -> tuple[launch.Spawn, Estimate, int]:
    """What to start, the memory it will need, and the bytes it may use.

    Looked at anew for each start, for the file and the free memory change while we run. Raises `BadHeader`, `NoFit`.
    """
    path = _model_path(entry.model, settings.source)
    facts = read_gguf(path)
    options = {**DEMO_OPTIONS, **entry.options} if is_demo(entry) else entry.options
    window = options.get("n_ctx") or facts.context
    spawn = launch.llamacpp(
        str(path),
        {**options, "n_ctx": window},
        cores=hardware.usable_cores(),
        env=entry.env,
        executable=entry.executable,
    )
    asked = {"n_parallel": spawn.slots, **options, "window": window}
    free = int(hardware.cpu().free_bytes * settings.resources.memory_fraction)
    estimate = estimate_llamacpp(facts, asked)
    check_fit(estimate, free, entry.name)
    return spawn, estimate, free


def _model_path(model: str, source: str) -> Path:
    """`demo`, or a file: as written, or beside the configuration's folder if it is not here."""
    if model == DEMO_MODEL:
        return demo_gguf()
    path = Path(os.path.expandvars(model)).expanduser()
    beside = Path(source).parent / path
    return beside if not path.exists() and beside.exists() else path


def capabilities_of(entry: TargetSettings) -> Capabilities:
    """What the client of this entry can do; nothing is contacted."""
    return create(
        entry.type, Endpoint(entry.name, entry.endpoint or "http://localhost", model=entry.model)
    ).capabilities


def connector(entry: TargetSettings, limits: Limits, *, managed: bool) -> Callable[[Ready], LLMProvider]:
    headers = dict(entry.headers)
    options = {} if managed else dict(entry.options)
    for option, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
        if entry.type == "openai" and option in options:
            headers[header] = options.pop(option)

    def connect(ready: Ready) -> LLMProvider:
        endpoint = Endpoint(
            target=entry.name,
            url=ready.url,
            model=entry.model,
            key=ready.key,
            headers=headers,
            options=options,
            connect_s=limits.connect_s,
        )
        return create(entry.type, endpoint)

    return connect
