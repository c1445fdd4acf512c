"""Settings -> targets: which engine serves each, where it answers, which client speaks to it. Starts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import platformdirs

from roundhouse.config import Limits, Settings, TargetSettings
from roundhouse.config.target import TYPES
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import ConfigError
from roundhouse.core.model import Capabilities, DeviceFacts
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.engines.process import Ready
from roundhouse.engines.spares import Spares
from roundhouse.gateway.demo import DEMO_NOTICE, DEMO_SAMPLING
from roundhouse.gateway.hosting import Hosting
from roundhouse.gateway.models import Models
from roundhouse.gateway.plan import is_demo, is_managed, slots_of, stored
from roundhouse.gateway.ways import ways_of
from roundhouse.providers.base import Endpoint, LLMProvider
from roundhouse.providers.registry import create, known
from roundhouse.providers.secrets import login_of
from roundhouse.resources.learned import Learned
from roundhouse.routing.breaker import BreakerPolicy
from roundhouse.routing.contact import Contact
from roundhouse.routing.replica import Replica
from roundhouse.routing.room import Room, RoomPolicy
from roundhouse.routing.target import Check, Target, TokenLimits
from roundhouse.routing.way import Way

__all__ = [
    "build_room",
    "build_target",
    "build_targets",
    "capabilities_of",
    "connector",
    "notices",
    "provider_types",
    "room_policy",
]

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
        if is_managed(target):
            if target.slots:
                option = "max_num_seqs" if target.type == "vllm" else "n_parallel"
                said.append(f'target "{target.name}" is started by us: set {option}; slots has no effect')
            continue
        asked = {
            "replicas": target.replicas.max > 1 or target.replicas.min > 1,
            "ttl": target.ttl_s is not None,
            "pin": target.pin,
        }
        unheeded = [name for name, is_set in asked.items() if is_set]
        if unheeded:
            said.append(f'target "{target.name}" is run by someone else: {", ".join(unheeded)} has no effect')
    return list(dict.fromkeys(said))


def provider_types() -> tuple[str, ...]:
    """The types a configuration may name: those of the contract, and what third parties have installed."""
    return tuple(dict.fromkeys((*TYPES, *known())))


def build_room(settings: Settings) -> Room:
    """The memory that the models of `settings` share."""
    return Room(room_policy(settings), learned=Learned(platformdirs.user_state_path("roundhouse") / "loads.json"))


def room_policy(settings: Settings) -> RoomPolicy:
    asked = settings.resources
    cap_bytes = asked.memory_mib << 20 if asked.memory_mib else None
    return RoomPolicy(asked.memory_fraction, cap_bytes, limit_s=settings.limits.load_s)


def build_targets(settings: Settings, room: Room, spares: Spares, hosting: Hosting | None = None) -> list[Target]:
    """One target per entry; raises `ConfigError` for an entry that no provider can serve."""
    one_at_a_time = asyncio.Lock()
    return [build_target(entry, settings, room, spares, one_at_a_time, hosting=hosting) for entry in settings.targets]


def build_target(
    entry: TargetSettings,
    settings: Settings,
    room: Room,
    spares: Spares,
    one_at_a_time: asyncio.Lock | None = None,
    generation: int = 0,
    hosting: Hosting | None = None,
) -> Target:
    """`generation` tells the engines of a changed entry from those that it had before. `hosting`: who runs those that
    are ours to run; None = this process.
    """
    limits = settings.limits
    managed = is_managed(entry)
    base = f"{entry.name}@{generation}" if generation else entry.name
    if managed and hosting is not None:
        return _target(entry, settings, [hosting.replica(entry, base, _breaker(settings))], wanted=1)
    connect = connector(entry, limits, managed=managed)
    least = max(1, entry.replicas.min) if managed else 1
    count = max(least, entry.replicas.max) if managed else 1
    replicas = []
    for number in range(count):
        key = base if count == 1 else f"{base}#{number + 1}"
        engine = _engine(entry, key, settings, room, spares, one_at_a_time or asyncio.Lock())
        replicas.append(
            Replica(
                key,
                engine,
                connect,
                slots_of(entry) if managed else entry.slots or _ATTACHED_SLOTS,
                _breaker(settings),
                ttl_s=entry.ttl_s,
                pin=entry.pin,
                plan=(lambda devices: _loading(entry, settings, devices)) if managed else None,
                target=entry.name,
            )
        )
    return _target(entry, settings, replicas, wanted=least)


def _target(entry: TargetSettings, settings: Settings, replicas: Sequence[Replica], *, wanted: int) -> Target:
    limits = settings.limits
    return Target(
        entry.name,
        entry.model,
        replicas,
        sampling=entry.sampling.over(_recommended(entry, settings)),
        limits=TokenLimits(
            first_token_s=entry.timeout_s or limits.first_token_s,
            between_tokens_s=entry.timeout_s or limits.between_tokens_s,
            thinking_s=max(entry.timeout_s or 0.0, limits.thinking_s),
            load_s=limits.load_s,
        ),
        capabilities=capabilities_of(entry),
        window_tokens=next((int(entry.options[name]) for name in _WINDOWS if entry.options.get(name)), 0),
        family=Target.family_named(entry.family),
        wanted=wanted,
        check=Check(entry.check.prompt or Check().prompt, entry.check.expect),
    )


def _recommended(entry: TargetSettings, settings: Settings) -> Sampling:
    """An attached server has settings of its own for its models."""
    if is_demo(entry):
        return DEMO_SAMPLING
    return Models(settings).recommended(entry.model) if is_managed(entry) else Sampling()


def _loading(entry: TargetSettings, settings: Settings, devices: Sequence[DeviceFacts]) -> list[Way]:
    """The ways to load it now; what lies in the store is not removed from now on."""
    if not is_demo(entry) and (revision := stored(entry, settings)):
        Models(settings).hold(revision)
    return ways_of(entry, settings, devices)


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


def _engine(
    entry: TargetSettings, key: str, settings: Settings, room: Room, spares: Spares, one_at_a_time: asyncio.Lock
) -> Engine:
    """Attached where an endpoint is given, or the backend is never started by us."""
    if is_managed(entry):
        # vLLM measures the free memory as it starts: two that start together would measure each other.
        turn = one_at_a_time if entry.type == "vllm" else None
        load_s = settings.limits.load_s
        return Engine(key, lambda: room.lodging(key), load_limit_s=load_s, turn=turn, spares=spares)
    url = entry.endpoint or _URLS.get(entry.type, "")
    if not url:
        raise ConfigError(f'target "{entry.name}" needs an endpoint: the URL where it answers', source=settings.source)
    return Engine(key, launch.attach(url, entry.api_key))


def capabilities_of(entry: TargetSettings) -> Capabilities:
    """What the client of this entry can do; nothing is contacted."""
    return create(
        entry.type, Endpoint(entry.name, entry.endpoint or "http://localhost", model=entry.model)
    ).capabilities


def connector(entry: TargetSettings, limits: Limits, *, managed: bool) -> Connector:
    headers = dict(entry.headers)
    options = {} if managed else dict(entry.options)
    for option, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
        if entry.type == "openai" and option in options:
            headers[header] = options.pop(option)
    # An engine of ours is watched: it lives, or we know that it died. One that accepts late is only overrun.
    connect_s = max(limits.connect_s, limits.first_token_s) if managed else limits.connect_s
    return Connector(entry, headers, options, connect_s)


@dataclass(frozen=True, slots=True)
class Connector:
    """Builds the client of a ready engine of `entry`, or tells how another process would."""

    entry: TargetSettings
    headers: Mapping[str, str]
    options: Mapping[str, Any]
    connect_s: float

    def __call__(self, ready: Ready) -> LLMProvider:
        return create(self.entry.type, self._endpoint(ready))

    def contact(self, ready: Ready) -> Contact:
        return Contact(self.entry.type, self._endpoint(ready))

    def _endpoint(self, ready: Ready) -> Endpoint:
        url, login = login_of(ready.url)
        return Endpoint(
            target=self.entry.name,
            url=url,
            model=self.entry.model,
            key=ready.key,
            headers={**self.headers, **login},
            options=self.options,
            connect_s=self.connect_s,
        )
