"""All keys that count now: those of the configuration and those of the file, which may change at any time."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence

from roundhouse.access.caller import ANYONE, Caller
from roundhouse.access.keys import Key, KeyFile, KeyLimits, digest_of
from roundhouse.access.table import Level, Used
from roundhouse.core.errors import ConfigError, KeyRejected

__all__ = ["KeyRing"]

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.5


class KeyRing:
    """Keys are asked for from the moment there is one, and then until the process ends, even if all are revoked.

    Raises `ConfigError` on building if the file cannot be read; a file that breaks later changes nothing. `copied`: the
    file is a copy of keys that are elsewhere: as long as it is not there, nobody knows whether there are any, and one
    is asked for.
    """

    def __init__(
        self,
        file: KeyFile,
        configured: Sequence[Key] = (),
        *,
        required: bool = False,
        copied: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._configured = tuple(configured)
        self._copied = copied
        self._clock = clock
        self._wall_clock = wall_clock
        self._callers: dict[str, tuple[Key, Caller]] = {}
        self._ran: set[str] = set()
        self._stamp: tuple[int, int, int] | None = None
        self._looked = clock()
        self.required = required
        self._stamp = self._stamp_now()
        self._take(file.read())

    def asks(self) -> bool:
        """Whether a key is needed now."""
        now = self._clock()
        if now - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            self.look()
        return self.required or (self._copied and self._stamp is None)

    @property
    def limited(self) -> bool:
        """Whether any key has limits."""
        return any(key.limits != KeyLimits() for key, _ in self._callers.values())

    def used(self) -> dict[str, Used]:
        """What limited keys have used since they were last told of, by digest, which counts as told now."""
        found = {}
        for digest, (key, caller) in self._callers.items():
            if caller.used_requests or caller.used_tokens or caller.running or digest in self._ran:
                if key.limits == KeyLimits():
                    continue
                found[digest] = Used(key.limits, caller.used_requests, caller.used_tokens, caller.running)
                caller.used_requests = caller.used_tokens = 0
        self._ran = {digest for digest, used in found.items() if used.running}
        return found

    def take_back(self, used: Mapping[str, Used]) -> None:
        """Nobody could be told of this."""
        for digest, one in used.items():
            if digest in self._callers:
                caller = self._callers[digest][1]
                caller.used_requests += one.requests
                caller.used_tokens += one.tokens
        self._ran |= used.keys()

    def settle(self, levels: Mapping[str, Level]) -> None:
        """What is left of each key over all servers."""
        now = self._clock()
        for digest, (_, caller) in self._callers.items():
            level = levels.get(digest, Level())
            caller.settle(level.requests, level.tokens, level.age_s, level.elsewhere, now)

    def caller(self, secret: str | None) -> Caller:
        """Who asks with `secret`. Raises `KeyRejected`, in the same words for every reason."""
        if not secret:
            raise KeyRejected(
                "a key is needed: send it as `Authorization: Bearer KEY`; `roundhouse keys create` makes one"
            )
        return self.known(digest_of(secret))

    def known(self, digest: str) -> Caller:
        """Who asks with the secret of that SHA-256, as `caller`."""
        key, caller = self._callers.get(digest, (None, ANYONE))
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise KeyRejected("this key is not valid")
        if key.expires and key.expires <= self._wall_clock():
            raise KeyRejected("this key is not valid")
        return caller

    def follow(self, other: KeyRing) -> None:
        """Take the keys of `other` from now on; who is known already keeps what it has used up."""
        self._file, self._configured, self._stamp = other._file, other._configured, other._stamp
        self._take([key for key, _ in other._callers.values()])

    def look(self) -> None:
        """Take what has changed in the file."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(self._file.read())
        except ConfigError as error:
            log.error("the keys stay as they were: %s", error)

    def _take(self, keys: Sequence[Key]) -> None:
        """These keys from now on; who is known already keeps what it has used up, unless its key was changed."""
        old = self._callers
        self._callers = {}
        for key in (*self._configured, *keys):
            known = old.get(key.digest)
            self._callers[key.digest] = known if known and known[0] == key else (key, Caller.of(key))
        self.required = self.required or bool(self._callers)

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._file.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
