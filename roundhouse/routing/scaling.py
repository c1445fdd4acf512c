"""How many replicas a target should have. Pure: what is busy and what waits in, a number out.

One is added when all that run are nearly full for `up_s`; one is taken away when the others would have had room
enough for `down_s`. The gap between the two shares, and the longer second time, keep it from swinging.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Scaler", "ScalingPolicy"]


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    full: float = 0.85
    enough: float = 0.6
    up_s: float = 1.0
    down_s: float = 30.0
    refused_s: float = 10.0


@dataclass(slots=True)
class Scaler:
    """Of one target that may have `least` to `most` replicas."""

    least: int
    most: int
    policy: ScalingPolicy = ScalingPolicy()
    _high_since: float | None = None
    _low_since: float | None = None
    _not_before: float = 0.0

    def decide(self, now: float, *, running: int, slots: int, asked: int) -> int:
        """How many there should be now. `slots`: of those that run, together; `asked`: requests that run or wait."""
        high = asked >= self.policy.full * slots
        low = running > self.least and asked <= self.policy.enough * slots * (running - 1) / max(1, running)
        self._high_since = (self._high_since if self._high_since is not None else now) if high else None
        self._low_since = (self._low_since if self._low_since is not None else now) if low else None
        may_grow = running < self.most and now >= self._not_before
        if may_grow and self._high_since is not None and now - self._high_since >= self.policy.up_s:
            self._high_since = None
            return running + 1
        if self._low_since is not None and now - self._low_since >= self.policy.down_s:
            self._low_since = None
            return running - 1
        return running

    def refused(self, now: float) -> None:
        """There was no room, or the new one did not start: not again at once."""
        self._not_before = now + self.policy.refused_s
