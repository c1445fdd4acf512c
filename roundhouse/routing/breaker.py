"""When to stop asking a backend that fails, and how to learn that it is back. Pure: time and chance are passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from roundhouse.core.machine import Machine

__all__ = ["BREAKER", "Breaker", "BreakerInput", "BreakerPolicy", "BreakerState"]


class BreakerState(Enum):
    CLOSED = auto()
    OPEN = auto()
    HALF_OPEN = auto()


class BreakerInput(Enum):
    TRIP = auto()
    PROBE = auto()
    RECOVER = auto()


_S, _I = BreakerState, BreakerInput
BREAKER: Machine[BreakerState, BreakerInput] = Machine(
    _S.CLOSED,
    {
        (_S.CLOSED, _I.TRIP): _S.OPEN,
        (_S.OPEN, _I.PROBE): _S.HALF_OPEN,
        (_S.HALF_OPEN, _I.TRIP): _S.OPEN,
        (_S.HALF_OPEN, _I.RECOVER): _S.CLOSED,
        # Where nothing else was left, an open one was asked before its time, and answered.
        (_S.OPEN, _I.RECOVER): _S.CLOSED,
    },
)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Opens at `consecutive` failures, at `refused` refused connections, or when of at least `least` results within
    `window_s` a share of `share` failed. Open for `open_s`, doubling up to `most_open_s`, each shortened or lengthened
    by up to `jitter`; then one probe at a time, until `probes` succeeded; then its weight rises over `slow_start_s`.
    """

    consecutive: int = 5
    refused: int = 2
    share: float = 0.5
    least: int = 10
    window_s: float = 30.0
    open_s: float = 5.0
    most_open_s: float = 120.0
    jitter: float = 0.1
    probes: int = 2
    slow_start_s: float = 10.0


class Breaker:
    """One backend's breaker. `begin` gives a generation; a result of an older one is about the past, and dropped."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self.policy = policy or BreakerPolicy()
        self.state = BREAKER.initial
        self.generation = 0
        self.opens_at = 0.0
        self._probing = False
        self._probes_left = 0
        self._failures = 0
        self._refusals = 0
        self._trips = 0
        self._recovered_at = float("-inf")
        self._hinted_until = float("-inf")
        self._results: deque[tuple[float, bool]] = deque(maxlen=256)

    def admits(self, now: float) -> bool:
        """Whether a request may go there: always while closed, never while open, one at a time afterwards, and while
        somebody else has given it up.
        """
        if self.state is _S.CLOSED:
            return not (self._probing and now < self._hinted_until)
        return now >= self.opens_at and not self._probing

    def hint(self, until: float) -> None:
        """Somebody else's breaker is open until then. Here one request at a time finds out what is true: its success
        ends the hint, and its failure is enough to open this one too.
        """
        self._hinted_until = until

    def weight(self, now: float) -> float:
        """Its share of the load after a recovery, from 0.1 rising to 1."""
        rising = (now - self._recovered_at) / self.policy.slow_start_s
        return 1.0 if rising >= 1 else max(0.1, rising)

    def begin(self, now: float) -> int:
        """A request goes there now; the generation to give back with its result."""
        if self.state is _S.OPEN and now >= self.opens_at:
            self._move(_I.PROBE)
            self._probes_left = self.policy.probes
        if self.state is _S.HALF_OPEN or (self.state is _S.CLOSED and now < self._hinted_until):
            self._probing = True
        return self.generation

    def succeeded(self, generation: int, now: float) -> None:
        if generation != self.generation:
            return
        self._failures = self._refusals = 0
        self._probing = False
        if self.state is _S.CLOSED:
            self._results.append((now, True))
            self._hinted_until = float("-inf")
            return
        self._probes_left -= 1
        if self._probes_left <= 0 or self.state is _S.OPEN:
            self._move(_I.RECOVER)
            self._trips, self._recovered_at = 0, now
            self._results.clear()

    def failed(self, generation: int, now: float, chance: float, *, refused: bool = False) -> None:
        """`chance` in [0, 1) decides the jitter."""
        if generation != self.generation:
            return
        self._probing = False
        self._failures += 1
        self._refusals = self._refusals + 1 if refused else 0
        self._results.append((now, False))
        enough = now < self._hinted_until or self._too_many(now)
        if self.state is _S.HALF_OPEN or (self.state is _S.CLOSED and enough):
            self._open(now, chance)

    def abandoned(self, generation: int) -> None:
        """The request ended for a reason that says nothing of the backend."""
        if generation == self.generation:
            self._probing = False

    def _too_many(self, now: float) -> bool:
        policy = self.policy
        if self._failures >= policy.consecutive or self._refusals >= policy.refused:
            return True
        recent = [ok for at, ok in self._results if now - at <= policy.window_s]
        return len(recent) >= policy.least and recent.count(False) >= policy.share * len(recent)

    def _open(self, now: float, chance: float) -> None:
        policy = self.policy
        pause_s = min(policy.most_open_s, policy.open_s * 2**self._trips)
        self.opens_at = now + pause_s * (1 + policy.jitter * (2 * chance - 1))
        self._trips = min(self._trips + 1, 30)
        self._failures = self._refusals = 0
        self._results.clear()
        self._move(_I.TRIP)

    def _move(self, given: BreakerInput) -> None:
        self.state = BREAKER.next(self.state, given)
        self.generation += 1
