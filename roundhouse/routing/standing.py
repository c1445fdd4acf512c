"""What is known of one backend's fitness: its breaker, and the states that are no fault of its. Pure."""

from __future__ import annotations

from roundhouse.core.errors import (
    BadHeader,
    ConnectFailed,
    EngineError,
    Error,
    Loading,
    Misconfigured,
    MissingExtra,
    Overloaded,
    ProviderError,
    ReplicaLost,
    ResourceError,
    TimedOut,
)
from roundhouse.routing.breaker import Breaker, BreakerPolicy, BreakerState

__all__ = ["Standing"]

_LOADING_S = 0.5
_LIMITED_S = 1.0
_LONGEST_S = 60.0
_OPERATOR_S = 30.0
_START_S = 1.0


class Standing:
    """Kept from what its answers say. Client errors, refusals of content and cancels change nothing."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self.breaker = Breaker(policy)
        self._blocked_until = 0.0
        self._blocked_for = ""

    def objection(self, now: float) -> str:
        """Why no request should go there now; empty = none."""
        if now < self._blocked_until:
            return f"{self._blocked_for}, for {self._blocked_until - now:.1f} s more"
        breaker = self.breaker
        if breaker.admits(now):
            return ""
        if breaker.state is BreakerState.CLOSED:
            return "another server has given it up for now, and a probe is running"
        if breaker.state is BreakerState.HALF_OPEN:
            return "its breaker is half open, and a probe is running"
        return f"its breaker is open, for {breaker.opens_at - now:.1f} s more"

    def routable_in_s(self, now: float) -> float:
        """Seconds until it may be asked again, as far as is known."""
        return max(0.0, self._blocked_until - now, self.breaker.opens_at - now if not self.breaker.admits(now) else 0.0)

    def passes(self, now: float) -> bool:
        """Whether it is blocked by a state that passes by itself, which is better waited for than ignored."""
        return now < self._blocked_until and self._blocked_for in ("loading", "rate limited")

    def begin(self, now: float) -> int:
        return self.breaker.begin(now)

    def succeeded(self, generation: int, now: float) -> None:
        self._blocked_until, self._blocked_for = 0.0, ""
        self.breaker.succeeded(generation, now)

    def abandoned(self, generation: int) -> None:
        self.breaker.abandoned(generation)

    def failed(self, error: Error, generation: int, now: float, chance: float) -> None:
        """What `error` means for those who come next."""
        match error:
            case ReplicaLost():
                pass  # the others behind the same door are as fit as they were
            case Overloaded(rate_limited=True):
                self._block("rate limited", now, error.retry_after_s or _LIMITED_S)
            case Loading():
                self._block("loading", now, _LOADING_S)
            case Misconfigured():
                self._block("misconfigured", now, _OPERATOR_S)
            case EngineError() | ResourceError() | BadHeader() | MissingExtra():
                # Its engine's own life decides when it is started again.
                self._block("not started", now, _START_S)
            case TimedOut(phase="total"):
                pass  # the caller's own limit
            case ProviderError():
                if isinstance(error, Overloaded) and error.retry_after_s:
                    self._block("overloaded", now, error.retry_after_s)
                refused = isinstance(error, ConnectFailed) and error.refused
                self.breaker.failed(generation, now, chance, refused=refused)
                return
        self.breaker.abandoned(generation)

    def _block(self, why: str, now: float, for_s: float) -> None:
        self._blocked_for, self._blocked_until = why, now + min(for_s, _LONGEST_S)
