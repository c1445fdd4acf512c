"""Settings as plain frozen values, each with its default. Seconds, bytes and tokens are in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roundhouse.core.chat import Sampling

__all__ = [
    "Auth",
    "CheckSettings",
    "ConfiguredKey",
    "HistorySettings",
    "Licences",
    "Limits",
    "LogSettings",
    "OtlpSettings",
    "Replicas",
    "Resources",
    "Server",
    "Settings",
    "StateSettings",
    "StoreSettings",
    "TargetSettings",
    "TelemetrySettings",
]


@dataclass(frozen=True, slots=True)
class Replicas:
    min: int = 1
    max: int = 1


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """What a target is asked before it takes over in a switch, and what its answer must contain. Empty = the usual."""

    prompt: str = ""
    expect: str = ""


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """One entry of `llm.providers`. `timeout_s` is its first-token and between-token limit, None = the general ones;
    `slots`: requests at once of a backend that someone else runs, 0 = the general number.

    `options` are the backend's own settings, passed on by name.
    """

    name: str
    type: str
    model: str
    family: str = ""
    endpoint: str = ""
    slots: int = 0
    timeout_s: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    api_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    executable: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    replicas: Replicas = Replicas()
    ttl_s: float | None = None
    pin: bool = False
    preload: bool = False
    check: CheckSettings = CheckSettings()
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
    """`hosts`: Host headers answered besides the loopback names; `origins`: sites whose pages may ask.

    A request's head must arrive within `head_timeout_s`, all of it within `request_timeout_s`; a client that takes
    nothing of its answer for `stalled_timeout_s` is cut off. A connection may lie idle between two requests for
    `keep_alive_timeout_s`: longer than clients and proxies keep theirs, lest one is closed while a request is on its
    way. `connections` are open at once. `drain_s` is what running requests are given at the end. `workers`: processes
    that answer, 1 = the one that owns the engines does. `watch`: read the configuration again when it changes.
    """

    host: str = "127.0.0.1"
    port: int = 8473
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_limit_mib: int = 32
    head_limit_kib: int = 64
    head_timeout_s: float = 10.0
    request_timeout_s: float = 60.0
    stalled_timeout_s: float = 60.0
    keep_alive_timeout_s: float = 75.0
    connections: int = 4096
    drain_s: float = 30.0
    workers: int = 1
    tls_cert: str = ""
    tls_key: str = ""
    watch: bool = False


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """A key of the configuration's own. `key` is a secret. Limits: 0 = none."""

    name: str
    key: str = field(repr=False)
    role: str = "client"
    routes: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent: int = 0


@dataclass(frozen=True, slots=True)
class Auth:
    """Keys are asked for as soon as there is one. `required`: refuse to start without any.

    `keys_file`: where `roundhouse keys` keeps them; empty = in the user's config folder.
    """

    required: bool = False
    keys_file: str = ""
    keys: tuple[ConfiguredKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """`memory_fraction`: how much of the memory that nobody else uses is for models; `memory_mib`: at most so much of
    the processor's, 0 = no bound. `spare_workers`: started workers, of each kind in use, that wait for a model.
    """

    memory_fraction: float = 0.8
    memory_mib: int = 0
    spare_workers: int = 0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`path` empty = the user's data folder. `catalogue`: entries beside the built-in ones, as written.
    `connections`: parts of one file that are fetched at once, `part_mib` long.
    """

    path: str = ""
    connections: int = 4
    part_mib: int = 16
    catalogue: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StateSettings:
    """`url` of a PostgreSQL that several servers share, and its password if it is not in there; empty = files of this
    user.
    """

    url: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Licences:
    """Which licences models may have, by id; an empty `allow` allows all that nothing else forbids."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    require_commercial: bool = False


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """What a server keeps of each request: numbers, for `retention_s`, in a file of at most `most_mib`.

    `path` empty = in the user's state folder.
    """

    enabled: bool = True
    path: str = ""
    retention_s: float = 30 * 86_400.0
    most_mib: int = 1024


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Lines of `format` from `level` up; `requests`: one for each request; `content`: one with its texts.

    `redact` names rules of what is taken out of texts, None = all; `redact_also` has patterns of one's own by name.
    """

    format: str = "text"
    level: str = "warning"
    requests: bool = False
    content: bool = False
    redact: tuple[str, ...] | None = None
    redact_also: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """A collector of OpenTelemetry at `endpoint`; empty, and None elsewhere = as the `OTEL_*` variables say.

    `sampling`: share of the traces that are kept; `interval_s`: of metrics; `content`: spans have texts, redacted.
    """

    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    sampling: float | None = None
    interval_s: float | None = None
    content: bool = False


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """When a target is said to have become slower or worse, and what is done about it (docs/telemetry.md).

    `baseline` and `false_alarm` in requests; of those of a target that end within `apart_s`, one is heard. `act`:
    `warn`, `avoid` or `roll_back`; `webhook` empty = there is none.
    """

    enabled: bool = True
    baseline: int = 200
    slower: float = 1.25
    false_alarm: int = 100_000
    apart_s: float = 0.1
    quality: tuple[str, ...] = ()
    act: str = "warn"
    avoid_for_s: float = 600.0
    roll_back_within_s: float = 3600.0
    webhook: str = field(default="", repr=False)
    webhook_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """`otlp` None = there is no such section."""

    history: HistorySettings = HistorySettings()
    log: LogSettings = field(default_factory=LogSettings)
    otlp: OtlpSettings | None = None
    drift: DriftSettings = DriftSettings()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a configuration says. `routes["default"]` exists whenever there is a target.

    `prompts`: a folder of prompt files. A template is one text, or one for each family of models.
    `experiments` by name, with the keys that the file has (docs/experiments.md).
    `origins` tells for each value that was set, by its dotted key, where it was set.
    """

    targets: tuple[TargetSettings, ...] = ()
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompts: str = ""
    prompt_templates: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    experiments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: Limits = Limits()
    breaker: BreakerSettings = BreakerSettings()
    server: Server = Server()
    auth: Auth = Auth()
    resources: Resources = Resources()
    store: StoreSettings = field(default_factory=StoreSettings)
    state: StateSettings = StateSettings()
    licences: Licences = Licences()
    telemetry: TelemetrySettings = TelemetrySettings()
    source: str = ""
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
