"""Every error Roundhouse raises on purpose.

    Error
    ├── ConfigError            the file, the environment or a flag is wrong         exit code 2
    ├── MissingExtra           an optional package is not installed                 exit code 2
    ├── RequestError           the caller's mistake: never counted against a backend
    │   ├── InvalidRequest     malformed, empty or contradictory
    │   ├── ModelNotFound      no such route, target or model
    │   ├── ContextTooLong     more tokens than the window holds     [next candidate, if its window is larger]
    │   ├── Unsupported        the backend cannot do what was asked  [next candidate]
    │   ├── ContentRefused     the backend's filter refused
    │   └── TemplateError      a prompt template or its variables are wrong
    ├── ProviderError          the backend's mistake                 [next candidate]
    │   ├── ConnectFailed      nothing listens there, or it hung up before answering
    │   ├── Misconfigured      it refuses our key or our account: an operator must act
    │   ├── Overloaded         it says "not now": 429, 503, full queue
    │   ├── Loading            it is alive and still loading the model
    │   ├── TimedOut           silent past a limit
    │   ├── StreamBroken       the answer stopped in the middle
    │   └── BadResponse        it answered something that is not an answer
    ├── EngineError            a process of ours                     [next candidate]
    │   ├── LaunchFailed       could not be started
    │   ├── NotHealthy         started, but not ready within its load limit
    │   └── Died               exited by itself
    │       └── ReplicaLost    it, or its machine; others of the same target serve on
    ├── ResourceError
    │   └── NoFit              the machine has no room               [next candidate]
    ├── StoreError
    │   ├── BadHeader          not a model file, or a damaged one    [next candidate]
    │   ├── ChecksumMismatch   the bytes are not the ones promised
    │   ├── DiskFull           no room for what is to be written
    │   ├── DownloadFailed     the source gave no model, or not all of it
    │   ├── InUse              another process works with it
    │   ├── LicenceNotAccepted the licence must be accepted first [next candidate]
    │   ├── LicenceRefused     the configuration forbids this licence [next candidate]
    │   └── NotInStore         no such model or revision on disk  [next candidate]
    ├── AccessError            who asks may not
    │   ├── KeyRejected        no key, or one that does not count
    │   ├── NotAllowed         the key is good, but not for this
    │   └── RateLimited        the key has used up what it may for now
    ├── QueueFull              our own admission limit: come back after `retry_after_s`
    └── AllProvidersFailed     every candidate was tried; also a RuntimeError

`failover` says whether another candidate may be tried. Facts travel as fields, so callers judge by type
and field, never by words in a message. A message says what was wrong, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

__all__ = [
    "AccessError",
    "AllProvidersFailed",
    "Attempt",
    "BadHeader",
    "BadResponse",
    "ChecksumMismatch",
    "ConfigError",
    "ConnectFailed",
    "ContentRefused",
    "ContextTooLong",
    "Died",
    "DiskFull",
    "DownloadFailed",
    "EngineError",
    "Error",
    "InUse",
    "InvalidRequest",
    "KeyRejected",
    "LaunchFailed",
    "LicenceNotAccepted",
    "LicenceRefused",
    "Loading",
    "Misconfigured",
    "MissingExtra",
    "ModelNotFound",
    "NoFit",
    "NotAllowed",
    "NotHealthy",
    "NotInStore",
    "Overloaded",
    "ProviderError",
    "QueueFull",
    "RateLimited",
    "ReplicaLost",
    "RequestError",
    "ResourceError",
    "StoreError",
    "StreamBroken",
    "TemplateError",
    "TimedOut",
    "Unsupported",
]


@dataclass(eq=False)
class Error(Exception):
    """Base of all. `code` is stable and machine-readable; `exit_code` is what the command line returns."""

    message: str

    code: ClassVar[str] = "error"
    failover: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class ConfigError(Error):
    """`source` is a file, an environment variable or a flag; `line` and `column` count from 1, 0 = unknown."""

    source: str = ""
    line: int = 0
    column: int = 0
    key: str = ""

    code = "config_error"
    exit_code = 2

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part)
        return f"{place}: {self.message}" if place else self.message


@dataclass(eq=False)
class MissingExtra(Error):
    """An optional dependency is absent; `extra` is the name to `pip install "roundhouse[extra]"`."""

    extra: str = ""

    code = "missing_extra"
    exit_code = 2


@dataclass(eq=False)
class RequestError(Error):
    """The caller's mistake."""

    code = "request_error"


@dataclass(eq=False)
class InvalidRequest(RequestError):
    """`param` names the field at fault."""

    param: str = ""

    code = "invalid_request"


@dataclass(eq=False)
class ModelNotFound(RequestError):
    model: str = ""
    known: tuple[str, ...] = ()

    code = "model_not_found"


@dataclass(eq=False)
class ContextTooLong(RequestError):
    """`prompt_tokens` against the window `limit_tokens`; 0 = the backend did not say."""

    prompt_tokens: int = 0
    limit_tokens: int = 0
    target: str = ""

    code = "context_length_exceeded"
    failover = True


@dataclass(eq=False)
class Unsupported(RequestError):
    """`feature` names a field of `Capabilities` or a request parameter."""

    feature: str = ""
    target: str = ""

    code = "unsupported"
    failover = True


@dataclass(eq=False)
class ContentRefused(RequestError):
    target: str = ""

    code = "content_filter"


@dataclass(eq=False)
class TemplateError(RequestError):
    """`template` and `variable` name the place; `line` counts from 1, 0 = unknown."""

    template: str = ""
    variable: str = ""
    line: int = 0

    code = "template_error"


@dataclass(eq=False)
class ProviderError(Error):
    """The backend's mistake. `status` is its HTTP status, 0 = none was received."""

    target: str = ""
    status: int = 0

    code = "provider_error"
    failover = True


@dataclass(eq=False)
class ConnectFailed(ProviderError):
    """`refused`: nothing listens there (against: reset or unreachable)."""

    refused: bool = False

    code = "connect_failed"


@dataclass(eq=False)
class Misconfigured(ProviderError):
    code = "misconfigured"


@dataclass(eq=False)
class Overloaded(ProviderError):
    """`retry_after_s` as the backend asked, None = it did not say. `rate_limited`: 429 rather than 503."""

    retry_after_s: float | None = None
    rate_limited: bool = False

    code = "overloaded"


@dataclass(eq=False)
class Loading(ProviderError):
    code = "loading"


@dataclass(eq=False)
class TimedOut(ProviderError):
    """`phase`: connect, load, first_token, between_tokens or total."""

    phase: str = ""
    limit_s: float = 0.0

    code = "timed_out"


@dataclass(eq=False)
class StreamBroken(ProviderError):
    """The connection ended, or an error frame came, after the answer had begun and before its finish reason."""

    code = "stream_broken"


@dataclass(eq=False)
class BadResponse(ProviderError):
    code = "bad_response"


@dataclass(eq=False)
class EngineError(Error):
    """`log_tail`: the last lines the process wrote, newest last."""

    target: str = ""
    log_tail: tuple[str, ...] = ()

    code = "engine_error"
    failover = True


@dataclass(eq=False)
class LaunchFailed(EngineError):
    code = "launch_failed"


@dataclass(eq=False)
class NotHealthy(EngineError):
    limit_s: float = 0.0

    code = "not_healthy"


@dataclass(eq=False)
class Died(EngineError):
    """`exit_status` as `subprocess` gives it: negative = killed by that signal; None = unknown."""

    exit_status: int | None = None

    code = "engine_died"


@dataclass(eq=False)
class ReplicaLost(Died):
    """One engine of several behind one door, lost with what it was answering; to ask there again reaches another."""

    code = "replica_lost"


@dataclass(eq=False)
class ResourceError(Error):
    code = "resource_error"


@dataclass(eq=False)
class NoFit(ResourceError):
    needed_bytes: int = 0
    free_bytes: int = 0
    target: str = ""

    code = "no_fit"
    failover = True


@dataclass(eq=False)
class StoreError(Error):
    path: str = ""

    code = "store_error"


@dataclass(eq=False)
class BadHeader(StoreError):
    """A model file that cannot be read; `offset` is where reading stopped, in bytes."""

    offset: int = 0

    code = "bad_model_file"
    failover = True


@dataclass(eq=False)
class ChecksumMismatch(StoreError):
    expected: str = ""
    actual: str = ""

    code = "checksum_mismatch"


@dataclass(eq=False)
class DiskFull(StoreError):
    needed_bytes: int = 0
    free_bytes: int = 0

    code = "disk_full"


@dataclass(eq=False)
class DownloadFailed(StoreError):
    """`status` is the source's HTTP status, 0 = it is not about one. What was fetched so far is kept."""

    url: str = ""
    status: int = 0

    code = "download_failed"


@dataclass(eq=False)
class InUse(StoreError):
    code = "in_use"


@dataclass(eq=False)
class LicenceNotAccepted(StoreError):
    licence: str = ""

    code = "licence_not_accepted"
    failover = True


@dataclass(eq=False)
class LicenceRefused(StoreError):
    """`rule` is the key of the configuration that forbids it."""

    licence: str = ""
    rule: str = ""

    code = "licence_refused"
    failover = True


@dataclass(eq=False)
class NotInStore(StoreError):
    model: str = ""

    code = "not_in_store"
    failover = True


@dataclass(eq=False)
class AccessError(Error):
    code = "access_denied"


@dataclass(eq=False)
class KeyRejected(AccessError):
    code = "invalid_api_key"


@dataclass(eq=False)
class NotAllowed(AccessError):
    code = "permission_denied"


@dataclass(eq=False)
class RateLimited(AccessError):
    """`limit` names what is used up: requests, tokens or concurrent."""

    limit: str = ""
    retry_after_s: float = 1.0

    code = "rate_limit_exceeded"


@dataclass(eq=False)
class QueueFull(Error):
    """Roundhouse itself is at its admission limit."""

    retry_after_s: float = 1.0

    code = "queue_full"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One candidate tried for one request. `outcome` is `ok` or an error's `code`; `reason` is its message."""

    target: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0


@dataclass(eq=False)
class AllProvidersFailed(Error, RuntimeError):
    """Every candidate failed. `attempts` in the order tried; `cause` is the first candidate's error."""

    attempts: tuple[Attempt, ...] = ()
    cause: Error | None = field(default=None, repr=False)

    code = "all_providers_failed"
