"""What is kept and written of requests, and where, as the configuration says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import platformdirs

from roundhouse.config import Settings
from roundhouse.database import Address, Place
from roundhouse.history.recorder import Policy
from roundhouse.telemetry.log import LogStyle
from roundhouse.telemetry.redaction import RULES, Redaction

__all__ = [
    "address_of",
    "cache_folder",
    "experiments_place",
    "history_place",
    "history_policy",
    "log_style",
    "prompts_folder",
    "routes_file",
    "runs_folder",
]


def address_of(settings: Settings) -> Address | None:
    """Of the database that servers share; None = state lies in files of this user."""
    return Address(settings.state.url, settings.state.password) if settings.state.url else None


def cache_folder(address: Address) -> Path:
    """Of this user, for one database: what it has not taken yet, and copies of what is needed without it."""
    name = hashlib.sha256(str(address).encode()).hexdigest()[:12]
    return platformdirs.user_state_path("roundhouse") / "databases" / name


def routes_file(settings: Settings) -> Path:
    """Where this user's servers keep where their routes were switched to."""
    address = address_of(settings)
    folder = platformdirs.user_state_path("roundhouse") if address is None else cache_folder(address)
    return folder / "routes.sqlite"


def prompts_folder(address: Address) -> Path:
    """This user's copy of the labels and kept versions of a shared database."""
    return cache_folder(address) / "prompts"


def experiments_place(settings: Settings) -> Place:
    """The shared database, or the user's state folder."""
    return address_of(settings) or platformdirs.user_state_path("roundhouse") / "experiments.sqlite"


def history_place(settings: Settings) -> Place:
    """Beside the configuration if that names a file; else the shared database or the user's state folder."""
    named = settings.telemetry.history.path
    if not named:
        return address_of(settings) or platformdirs.user_state_path("roundhouse") / "history.sqlite"
    return Path(settings.source).parent / Path(named).expanduser()


def runs_folder() -> Path:
    """Where the last benchmarks are kept."""
    return platformdirs.user_state_path("roundhouse") / "benchmarks"


def history_policy(settings: Settings) -> Policy | None:
    """None = no history is kept."""
    history = settings.telemetry.history
    if not history.enabled:
        return None
    place = history_place(settings)
    journal = cache_folder(place) if isinstance(place, Address) else None
    return Policy(place, history.retention_s, history.most_mib << 20, journal)


def log_style(settings: Settings) -> LogStyle:
    """How a server writes its log."""
    log = settings.telemetry.log
    redaction = Redaction(tuple(RULES) if log.redact is None else log.redact, log.redact_also)
    return LogStyle(log.format == "json", log.level, log.requests, log.content, redaction)
