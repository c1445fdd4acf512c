"""Settings -> targets: which engine serves each, where it answers, which client speaks to it. Starts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from roundhouse.config import Limits, Settings, TargetSettings
from roundhouse.config.schema import TYPES
from roundhouse.core.errors import ConfigError
from roundhouse.core.model import Capabilities
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.engines.process import Ready
from roundhouse.gateway.demo import DEMO_NOTICE, DEMO_SAMPLING
from roundhouse.gateway.plan import PLANS, is_demo, is_managed, slots_of
from roundhouse.providers.base import Endpoint, LLMProvider
from roundhouse.providers.registry import create, known
from roundhouse.routing.breaker import BreakerPolicy
from roundhouse.routing.replica import Replica
from roundhouse.routing.target import Target, TokenLimits

__all__ = ["build_targets", "capabilities_of", "connector", "notices", "provider_types"]

_ATTACHED_SLOTS = 64
# The options by which a target declares its window.
_WINDOWS = ("n_ctx", "num_ctx", "max_model_len")
_URLS = {"ollama": "http://localhost:11434", "vllm": "http://localhost:8000"}


def notices(settings: Settings) -> list[str]:
    """What a user should be told of these settings before anything is answered."""
    said = []
    for target in settings.targets:
        if is_demo(target):
            said.append(DEMO_NOTICE)
        growing = target.replicas.max > max(1, target.replicas.min)
        attached = not is_managed(target)
        asked = {"replicas.max": growing, "ttl": attached and target.ttl_s is not None, "pin": attached and target.pin}
        unheeded = [name for name, is_set in asked.items() if is_set]
        if unheeded:
            said.append(f'target "{target.name}": {", ".join(unheeded)} has no effect in this version')
    return list(dict.fromkeys(said))


def provider_types() -> tuple[str, ...]:
    """The types a configuration may name: those of the contract, and what third parties have installed."""
    return tuple(dict.fromkeys((*TYPES, *known())))


def build_targets(settings: Settings) -> list[Target]:
    """One target per entry; raises `ConfigError` for an entry that no provider can serve."""
    one_at_a_time = asyncio.Lock()
    return [_target(entry, settings, one_at_a_time) for entry in settings.targets]


def _target(entry: TargetSettings, settings: Settings, one_at_a_time: asyncio.Lock) -> Target:
    limits = settings.limits
    managed = is_managed(entry)
    connect = connector(entry, limits, managed=managed)
    count = max(1, entry.replicas.min) if managed else 1
    replicas = []
    for number in range(count):
        key = entry.name if count == 1 else f"{entry.name}#{number + 1}"
        engine = _engine(entry, key, settings, one_at_a_time)
        slots = slots_of(entry) if managed else _ATTACHED_SLOTS
        ttl_s = None if entry.pin else entry.ttl_s
        replicas.append(Replica(key, engine, connect, slots, _breaker(settings), ttl_s=ttl_s))
    return Target(
        entry.name,
        entry.model,
        replicas,
        sampling=entry.sampling.over(DEMO_SAMPLING) if is_demo(entry) else entry.sampling,
        limits=TokenLimits(
            first_token_s=entry.timeout_s or limits.first_token_s,
            between_tokens_s=entry.timeout_s or limits.between_tokens_s,
            thinking_s=max(entry.timeout_s or 0.0, limits.thinking_s),
            load_s=limits.load_s,
        ),
        capabilities=capabilities_of(entry),
        window_tokens=next((int(entry.options[name]) for name in _WINDOWS if entry.options.get(name)), 0),
        family=Target.family_named(entry.family),
    )


def _breaker(settings: Settings) -> BreakerPolicy:
    asked = settings.breaker
    return BreakerPolicy(
        consecutive=asked.failures,
        refused=asked.refused,
        share=asked.share,
        least=asked.least,
        window_s=asked.window_s,
        open_s=asked.open_s,
        most_open_s=asked.longest_s,
        probes=asked.probes,
        slow_start_s=asked.slow_start_s,
    )


def _engine(entry: TargetSettings, key: str, settings: Settings, one_at_a_time: asyncio.Lock) -> Engine:
    """Attached where an endpoint is given, or the backend is never started by us."""
    if is_managed(entry):
        plan = PLANS[entry.type]
        # vLLM measures the free memory as it starts: two that start together would measure each other.
        turn = one_at_a_time if entry.type == "vllm" else None
        return Engine(key, lambda: plan(entry, settings).spawn, load_limit_s=settings.limits.load_s, turn=turn)
    url = entry.endpoint or _URLS.get(entry.type, "")
    if not url:
        raise ConfigError(f'target "{entry.name}" needs an endpoint: the URL where it answers', source=settings.source)
    return Engine(key, launch.attach(url, entry.api_key))


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
