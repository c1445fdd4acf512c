"""From settings to who may ask: the ring of keys, and what must not be served without one."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import platformdirs

from roundhouse.access.keys import Key, KeyFile, KeyLimits, Role, digest_of
from roundhouse.access.ring import KeyRing
from roundhouse.config import ConfiguredKey, Settings
from roundhouse.core.errors import ConfigError

__all__ = ["key_file", "key_ring"]


def key_file(settings: Settings) -> KeyFile:
    """Where the settings say, relative to the configuration's own folder; else in the user's config folder."""
    if not settings.auth.keys_file:
        return KeyFile(platformdirs.user_config_path("roundhouse") / "keys.json")
    return KeyFile(Path(settings.source).parent / Path(settings.auth.keys_file).expanduser())


def key_ring(settings: Settings) -> KeyRing:
    """Raises `ConfigError` where a key is needed and there is none."""
    ring = KeyRing(key_file(settings), [_key(entry) for entry in settings.auth.keys])
    if ring.required:
        return ring
    host = settings.server.host
    if settings.auth.required:
        raise ConfigError(
            "auth.required is true and there is no key; make one with: roundhouse keys create NAME --role admin",
            source=settings.origins.get("auth.required", ""),
            key="auth.required",
        )
    if not _is_loopback(host):
        raise ConfigError(
            f"server.host {host} can be reached from other machines, and there are no keys to keep strangers out; "
            "make one with: roundhouse keys create NAME --role admin",
            source=settings.origins.get("server.host", ""),
            key="server.host",
        )
    return ring


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(entry: ConfiguredKey) -> Key:
    limits = KeyLimits(entry.requests_per_minute, entry.tokens_per_minute, entry.concurrent)
    return Key(entry.name, entry.name, Role(entry.role), digest_of(entry.key), routes=entry.routes, limits=limits)
