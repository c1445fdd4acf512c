"""The files by which a server speaks TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from roundhouse.config import Settings
from roundhouse.core.errors import ConfigError

__all__ = ["tls_files"]


def tls_files(settings: Settings) -> tuple[str, str] | None:
    """The files of certificate and key. Raises `ConfigError` unless both files are there, or neither is asked for."""
    server = settings.server
    files = {"tls_cert": server.tls_cert, "tls_key": server.tls_key}
    if not any(files.values()):
        return None
    found = {}
    for name, text in files.items():
        path = Path(settings.source).parent / Path(text).expanduser()
        if not text or not path.is_file():
            said = f"there is no file {path}" if text else "both tls_cert and tls_key are needed"
            raise ConfigError(f"server.{name}: {said}", source=settings.source, key=f"server.{name}")
        found[name] = str(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found["tls_cert"], found["tls_key"], lambda: "")
    except (ssl.SSLError, OSError) as error:
        said = f"server.tls_cert and tls_key cannot be used: {error}"
        raise ConfigError(said, source=settings.source, key="server.tls_cert") from error
    return found["tls_cert"], found["tls_key"]
