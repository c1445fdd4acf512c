"""Whether a collector of OpenTelemetry is told of requests, and how, as the configuration and the environment say."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from roundhouse.config import Settings
from roundhouse.core.errors import ConfigError
from roundhouse.gateway.keeping import log_style
from roundhouse.telemetry.otlp.names import Backend, Backends

if TYPE_CHECKING:
    from roundhouse.telemetry.otlp.export import Export

__all__ = ["backends_of", "export_of", "is_wanted"]

log = logging.getLogger(__name__)
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_NAMED_BY = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_"))
_HINT = 'pip install "roundhouse[otel]"'


def is_wanted(settings: Settings, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a collector: named by `telemetry.otlp`, or by the variables that all of OpenTelemetry heeds.

    Raises `ConfigError` if the configuration wants one and the packages for it are missing. The variables may be meant
    for other programs: then it is only logged.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    asked = settings.telemetry.otlp
    if asked is not None and asked.endpoint and urlsplit(asked.endpoint).scheme not in ("http", "https"):
        said = f'telemetry.otlp.endpoint: "{asked.endpoint}" is no URL; write such as http://localhost:4318'
        raise ConfigError(said, source=settings.source, key="telemetry.otlp.endpoint")
    if asked is None and not any(environ.get(name) for name in _NAMED_BY):
        return False
    if all(_is_installed(name) for name in _PACKAGES):
        return True
    if asked is not None:
        said = f"telemetry.otlp: OpenTelemetry needs more packages: {_HINT}"
        raise ConfigError(said, source=settings.source, key="telemetry.otlp")
    log.warning("%s is set, but no collector is told of requests; for that: %s", _NAMED_BY[0], _HINT)
    return False


def export_of(settings: Settings) -> Export:
    """The listener that tells the collector; its threads run from now on."""
    from roundhouse.telemetry.otlp.export import Export, Style

    asked = settings.telemetry.otlp
    if asked is None:
        return Export(Style(), backends_of(settings))
    style = Style(
        asked.endpoint,
        asked.headers,
        asked.sampling,
        asked.interval_s,
        asked.content,
        log_style(settings).redaction,
    )
    return Export(style, backends_of(settings))


def backends_of(settings: Settings) -> Backends:
    """Who answers for each target, as far as it is known before anything runs."""
    found = {}
    for target in settings.targets:
        try:
            url = urlsplit(target.endpoint)
            port = url.port or {"https": 443}.get(url.scheme, 80)
        except ValueError:  # whoever asks it will say so
            url, port = urlsplit(""), 0
        found[target.name] = Backend(target.type, url.hostname or "", port)
    return found


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package above it
        return False
