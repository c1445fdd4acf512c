"""What is kept and written of requests, and where, as the configuration says."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from roundhouse.config import Settings
from roundhouse.history.recorder import Policy
from roundhouse.telemetry.log import LogStyle
from roundhouse.telemetry.redaction import RULES, Redaction

__all__ = ["history_path", "history_policy", "log_style", "runs_folder"]


def history_path(settings: Settings) -> Path:
    """Beside the configuration if that names a file; else in the user's state folder."""
    named = settings.telemetry.history.path
    if not named:
        return platformdirs.user_state_path("roundhouse") / "history.sqlite"
    return Path(settings.source).parent / Path(named).expanduser()


def runs_folder() -> Path:
    """Where the last benchmarks are kept."""
    return platformdirs.user_state_path("roundhouse") / "benchmarks"


def history_policy(settings: Settings) -> Policy | None:
    """None = no history is kept."""
    history = settings.telemetry.history
    if not history.enabled:
        return None
    return Policy(history_path(settings), history.retention_s, history.most_mib << 20)


def log_style(settings: Settings) -> LogStyle:
    """How a server writes its log."""
    log = settings.telemetry.log
    redaction = Redaction(tuple(RULES) if log.redact is None else log.redact, log.redact_also)
    return LogStyle(log.format == "json", log.level, log.requests, log.content, redaction)
