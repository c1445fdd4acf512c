"""Who asks, and what is left of what they may: rates as token buckets, that is, a minute's worth may come at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from roundhouse.access.keys import Key, KeyLimits, Role
from roundhouse.core.errors import NotAllowed, RateLimited

__all__ = ["ANYONE", "Caller"]

_MINUTE_S = 60.0


@dataclass(slots=True)
class _Bucket:
    """Filled at `per_minute`, up to a minute's worth. May be overdrawn, and is then empty for longer."""

    per_minute: int
    level: float = 0.0
    at: float = 0.0

    def filled(self, now: float) -> float:
        self.level = min(self.per_minute, self.level + (now - self.at) * self.per_minute / _MINUTE_S)
        self.at = now
        return self.level

    def seconds_until(self, level: float) -> float:
        return max(0.0, (level - self.level) * _MINUTE_S / self.per_minute)


@dataclass(slots=True)
class Caller:
    """One key at work; all its requests share it. `now` is any clock that only goes forward. `digest`: the key's.

    `elsewhere`: how many of its requests run on other servers, as far as is known. `used_requests` and `used_tokens`
    are what other servers have not been told of.
    """

    name: str
    role: Role
    routes: frozenset[str] = frozenset()
    limits: KeyLimits = field(default_factory=KeyLimits)
    running: int = 0
    elsewhere: int = 0
    used_requests: int = 0
    used_tokens: int = 0
    digest: str = field(default="", repr=False)
    _requests: _Bucket = field(init=False)
    _tokens: _Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._requests = _Bucket(self.limits.requests_per_minute, self.limits.requests_per_minute)
        self._tokens = _Bucket(self.limits.tokens_per_minute, self.limits.tokens_per_minute)

    @classmethod
    def of(cls, key: Key) -> Caller:
        return cls(key.name, key.role, frozenset(key.routes), key.limits, digest=key.digest)

    def enter(self, now: float, count: int = 1) -> None:
        """So many requests begin. Raises `RateLimited`, and then counts nothing. Every success wants a `leave`."""
        limits = self.limits
        if limits.concurrent and self.running + self.elsewhere + count > limits.concurrent:
            raise self._refused("concurrent", f"{limits.concurrent} requests at once", 1.0)
        if limits.tokens_per_minute and self._tokens.filled(now) <= 0:
            raise self._refused("tokens", f"{limits.tokens_per_minute} tokens a minute", self._tokens.seconds_until(1))
        if limits.requests_per_minute:
            if self._requests.filled(now) < count:
                wait_s = self._requests.seconds_until(count)
                raise self._refused("requests", f"{limits.requests_per_minute} requests a minute", wait_s)
            self._requests.level -= count
            self.used_requests += count
        self.running += count

    def leave(self, count: int = 1) -> None:
        self.running -= count

    @asynccontextmanager
    async def more(self, count: int, now: float) -> AsyncIterator[None]:
        """While one request that has entered is `count` more: several answers, each of which takes a slot.

        Raises `RateLimited`, or `NotAllowed` if waiting would not help.
        """
        self.check_count(count)
        if count:
            self.enter(now, count)
        try:
            yield
        finally:
            if count:
                self.leave(count)

    def check_count(self, count: int) -> None:
        """Raises `NotAllowed` if one request could never be `count` more."""
        limits = self.limits
        for most, what in ((limits.concurrent, "at once"), (limits.requests_per_minute, "a minute")):
            if most and count + 1 > most:
                raise NotAllowed(f'this asks for {count + 1} answers; the key "{self.name}" may have {most} {what}')

    def spend(self, tokens: int, now: float) -> None:
        """Tokens that were read and written for it: known only when they are, so the last answer may overdraw."""
        if self.limits.tokens_per_minute:
            self._tokens.filled(now)
            self._tokens.level -= tokens
            self.used_tokens += tokens

    def settle(self, requests: float | None, tokens: float | None, age_s: float, elsewhere: int, now: float) -> None:
        """What is left over all servers, as it was `age_s` ago, before what they were not told of; None = all of it."""
        self.elsewhere = elsewhere
        for bucket, level, untold in (
            (self._requests, requests, self.used_requests),
            (self._tokens, tokens, self.used_tokens),
        ):
            if bucket.per_minute and level is not None:
                bucket.level, bucket.at = level, now - age_s
                bucket.filled(now)
                bucket.level -= untold

    def may_use(self, route: str) -> bool:
        return not self.routes or route in self.routes

    def check_route(self, route: str) -> None:
        """Raises `NotAllowed` for a name that this key may not put into `model`."""
        if not self.may_use(route):
            allowed = ", ".join(sorted(self.routes))
            raise NotAllowed(f'the key "{self.name}" may not use "{route}"; it may use {allowed}')

    def _refused(self, limit: str, what: str, retry_after_s: float) -> RateLimited:
        said = f'the key "{self.name}" has used up its {what}; try again in {max(1, round(retry_after_s))} s'
        return RateLimited(said, limit=limit, retry_after_s=retry_after_s)


# Where no keys are asked for, whoever reaches the port may do everything.
ANYONE = Caller("", Role.ADMIN)
