"""Where the owner keeps what must outlive it: in Ray's own store, as long as the cluster lives."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping

import msgspec
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from roundhouse.config import Settings

__all__ = ["Keeping", "Kept"]

log = logging.getLogger(__name__)
_NAMESPACE = b"roundhouse"


class Kept(msgspec.Struct, frozen=True):
    """Where the routes lead, as the last switch left them. `number` counts what the service has gone by: 0 = what it
    was started with, else `pickled` is that.
    """

    routes: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    number: int = 0
    pickled: bytes = b""

    @classmethod
    def of(cls, routes: Mapping[str, tuple[tuple[str, ...], ...]], number: int, settings: Settings) -> Kept:
        return cls(dict(routes), number, pickle.dumps(settings) if number else b"")

    def settings(self, started: Settings) -> Settings:
        """What is gone by, where the service was started with `started`."""
        if not self.number:
            return started
        found = pickle.loads(self.pickled)  # noqa: S301 - Ray's own store, by which Serve starts everything here
        assert isinstance(found, Settings)
        return found


class Keeping:
    """`run` tells one start of the service from the next, which begins by its configuration."""

    def __init__(self, run: str) -> None:
        self._key = f"routes-{run}".encode()

    def load(self) -> Kept:
        """Empty if nothing was kept."""
        data = _internal_kv_get(self._key, namespace=_NAMESPACE)
        return Kept() if data is None else msgspec.json.decode(data, type=Kept)

    def save(self, kept: Kept) -> None:
        _internal_kv_put(self._key, msgspec.json.encode(kept), overwrite=True, namespace=_NAMESPACE)
