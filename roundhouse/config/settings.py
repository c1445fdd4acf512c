"""Settings as plain frozen values, each with its default. Seconds, bytes and tokens are in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roundhouse.core.chat import Sampling

__all__ = ["Limits", "Replicas", "Resources", "Server", "Settings", "TargetSettings"]


@dataclass(frozen=True, slots=True)
class Replicas:
    min: int = 1
    max: int = 1


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """One entry of `llm.providers`. `timeout_s` is its first-token and between-token limit, None = the general ones.

    `options` are the backend's own settings, passed on by name.
    """

    name: str
    type: str
    model: str
    family: str = ""
    endpoint: str = ""
    timeout_s: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    api_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    executable: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    replicas: Replicas = Replicas()
    ttl_s: float | None = None
    pin: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """No wait is without one of these. `queue`: requests that may wait for a slot; `attempts`: of one request."""

    connect_s: float = 2.0
    load_s: float = 300.0
    first_token_s: float = 30.0
    between_tokens_s: float = 15.0
    thinking_s: float = 60.0
    total_s: float = 600.0
    hedge_s: float = 0.0
    queue: int = 256
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a target is no longer asked, and how it comes back (docs/routing.md)."""

    failures: int = 5
    refused: int = 2
    share: float = 0.5
    least: int = 10
    window_s: float = 30.0
    open_s: float = 5.0
    longest_s: float = 120.0
    probes: int = 2
    slow_start_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """`hosts`: Host headers answered besides the loopback names."""

    host: str = "127.0.0.1"
    port: int = 8473
    hosts: tuple[str, ...] = ()
    body_limit_mib: int = 32


@dataclass(frozen=True, slots=True)
class Resources:
    """`memory_fraction`: how much of the memory that is free may be given to models."""

    memory_fraction: float = 0.8


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a configuration says. `routes["default"]` exists whenever there is a target.

    `origins` tells for each value that was set, by its dotted key, where it was set.
    """

    targets: tuple[TargetSettings, ...] = ()
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompt_templates: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    breaker: BreakerSettings = BreakerSettings()
    server: Server = Server()
    resources: Resources = Resources()
    source: str = ""
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
