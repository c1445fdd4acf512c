"""From settings to who may ask: the ring of keys, and what must not be served without one."""

from __future__ import annotations

import ipaddress
import logging
from contextlib import closing
from pathlib import Path

import platformdirs

from roundhouse.access.keys import Key, KeyFile, KeyLimits, Role, digest_of
from roundhouse.access.ring import KeyRing
from roundhouse.access.sharing import Sharing, mirror
from roundhouse.access.table import KeyTable
from roundhouse.config import ConfiguredKey, Settings
from roundhouse.core.errors import ConfigError, StoreError
from roundhouse.database import Address
from roundhouse.gateway.keeping import address_of, cache_folder

__all__ = ["key_file", "key_ring", "keys_of", "open_ring", "sharing_of"]

log = logging.getLogger(__name__)
_START_S = 3.0


def keys_of(settings: Settings) -> KeyFile | KeyTable:
    """Where keys are made and revoked: the shared database, or a file."""
    address = address_of(settings)
    return key_file(settings) if address is None else KeyTable(address)


def sharing_of(settings: Settings, ring: KeyRing) -> Sharing | None:
    """What keeps `ring` in step with other servers; None = it is alone."""
    address = address_of(settings)
    return None if address is None else Sharing(KeyTable(address), _copy(address), ring)


def _copy(address: Address) -> KeyFile:
    return KeyFile(cache_folder(address) / "keys.json")


def _counting(settings: Settings, *, asks: bool) -> KeyFile:
    """The file that a server looks at. Of the shared database it is a copy, renewed now if `asks`, as far as that
    answers within some seconds.
    """
    address = address_of(settings)
    if address is None:
        return key_file(settings)
    copy = _copy(address)
    if asks:
        with closing(KeyTable(address, limit_s=_START_S)) as table:
            try:
                mirror(table, copy)
            except StoreError as error:
                known = (
                    "those known last count" if copy.path.exists() else "none are known, so only configured ones count"
                )
                log.warning("keys cannot be read; %s: %s", known, error)
    return copy


def key_file(settings: Settings) -> KeyFile:
    """Where the settings say, relative to the configuration's own folder; else in the user's config folder."""
    if not settings.auth.keys_file:
        return KeyFile(platformdirs.user_config_path("roundhouse") / "keys.json")
    return KeyFile(Path(settings.source).parent / Path(settings.auth.keys_file).expanduser())


def open_ring(settings: Settings, *, required: bool = False, asks: bool = False) -> KeyRing:
    """The keys as they are; `required`: they are asked for even if there are none. `asks` as for `key_ring`."""
    configured = [_key(entry) for entry in settings.auth.keys]
    shared = address_of(settings) is not None
    return KeyRing(_counting(settings, asks=asks), configured, required=required, copied=shared)


def key_ring(settings: Settings, *, asks: bool = True) -> KeyRing:
    """Raises `ConfigError` where a key is needed and there is none. `asks`: a shared database, for some seconds."""
    ring = open_ring(settings, asks=asks)
    if ring.asks():
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
