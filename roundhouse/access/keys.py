"""Keys as they are kept: hashed, in one file that is replaced as a whole.

A key is 256 bits of randomness, so one SHA-256 keeps it as safe as a slow hash would; it is shown when it is made and
never again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from roundhouse.core.errors import ConfigError
from roundhouse.core.files import locked, write_atomically

__all__ = ["Key", "KeyFile", "KeyLimits", "Role", "digest_of", "new_key"]

_VERSION = 1
_PREFIX = "rh-"
_FILE_LIMIT_BYTES = 4 << 20


class Role(StrEnum):
    """A client asks models; an admin also sees and steers the server."""

    CLIENT = "client"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """0 = no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """`digest`: hex SHA-256 of the secret. `routes`: the names it may put into `model`; empty = all.

    `created` and `expires` are seconds since 1970; `expires` 0 = never.
    """

    id: str
    name: str
    role: Role
    digest: str
    created: float = 0.0
    expires: float = 0.0
    routes: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(
    name: str,
    role: Role,
    *,
    routes: tuple[str, ...] = (),
    limits: KeyLimits | None = None,
    expires: float = 0.0,
    now: float | None = None,
) -> tuple[Key, str]:
    """A key, and its secret, which stands nowhere else."""
    own = secrets.token_hex(4)
    secret = f"{_PREFIX}{own}-{secrets.token_urlsafe(32)}"
    created = time.time() if now is None else now
    return Key(own, name, role, digest_of(secret), created, expires, routes, limits or KeyLimits()), secret


class KeyFile:
    """The keys of one file, which need not exist. Two processes may change it; a reader sees whole files only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def place(self) -> Path:
        return self.path

    def close(self) -> None:
        """It holds nothing open."""

    def replace(self, keys: Sequence[Key]) -> None:
        """These, in place of all that are there. Raises `ConfigError` if the file cannot be written."""
        with self._locked():
            self._write(tuple(keys))

    def read(self) -> tuple[Key, ...]:
        """Raises `ConfigError` for a file that cannot be read or is none of ours."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_FILE_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._error(f"it cannot be read: {error.strerror or error}") from error
        if len(data) > _FILE_LIMIT_BYTES:
            raise self._error("it is larger than any file of keys")
        try:
            told = json.loads(data)
            if told["version"] != _VERSION:
                raise self._error(f"its version is {told['version']!r}; this Roundhouse knows version {_VERSION}")
            return tuple(_key(entry) for entry in told["keys"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._error(
                "it is not a file of keys, or it is damaged; restore it, or remove it and make keys anew"
            ) from error

    def add(self, key: Key) -> None:
        """Raises `ConfigError` if a key of that name is there already, or the file cannot be written."""
        with self._changing() as keys:
            if any(known.name == key.name for known in keys):
                raise self._error(f'there is a key "{key.name}" already; revoke it first, or choose another name')
            self._write((*keys, key))

    def revoke(self, name: str) -> Key:
        """Remove the key of that name or id, and return it. Raises `ConfigError` if there is none."""
        with self._changing() as keys:
            found = next((key for key in keys if name in (key.name, key.id)), None)
            if found is None:
                known = ", ".join(key.name for key in keys) or "none"
                raise self._error(f'there is no key "{name}"; there are: {known}')
            self._write(tuple(key for key in keys if key is not found))
            return found

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[Key, ...]]:
        with self._locked():
            yield self.read()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path.with_name(self.path.name + ".lock")))
            except OSError as error:
                raise self._error(f"it cannot be written: {error.strerror or error}") from error
            yield

    def _write(self, keys: tuple[Key, ...]) -> None:
        """The file replaced as a whole: a full disk or a killed process leaves the old one."""
        text = json.dumps({"version": _VERSION, "keys": [asdict(key) for key in keys]}, indent=1)
        try:
            write_atomically(self.path, text.encode(), 0o600)
        except OSError as error:
            raise self._error(f"it cannot be written: {error.strerror or error}") from error

    def _error(self, message: str) -> ConfigError:
        return ConfigError(message, source=str(self.path), key="auth.keys_file")


def _key(entry: Mapping[str, Any]) -> Key:
    digest = entry["digest"]
    if not isinstance(digest, str) or len(digest) != 64:
        raise ValueError("a digest has 64 digits")
    plain = Key(str(entry["id"]), str(entry["name"]), Role(entry["role"]), digest)
    return replace(
        plain,
        created=float(entry.get("created", 0.0)),
        expires=float(entry.get("expires", 0.0)),
        routes=tuple(str(route) for route in entry.get("routes", ())),
        limits=KeyLimits(**{name: int(value) for name, value in entry.get("limits", {}).items()}),
    )
