"""What a reload changes of the server itself: hosts, origins, keys, the size of a body."""

from __future__ import annotations

from collections.abc import Callable

from roundhouse.access.ring import KeyRing
from roundhouse.config import Settings
from roundhouse.server.access import key_ring
from roundhouse.server.context import Context
from roundhouse.server.guard import LOOPBACK_HOSTS, Guard

__all__ = ["renewal"]


def renewal(guard: Guard, context: Context, ring: KeyRing) -> Callable[[Settings], Callable[[], None]]:
    """For `Gateway.before_reload`: settings that cannot be served raise `ConfigError` before anything has changed."""

    def prepare(new: Settings) -> Callable[[], None]:
        keys = key_ring(new, asks=False)  # who is in step with others stays so

        def apply() -> None:
            ring.follow(keys)
            guard.admit((*LOOPBACK_HOSTS, *new.server.hosts), new.server.origins)
            context.body_limit_bytes = new.server.body_limit_mib << 20

        return apply

    return prepare
