"""Frozen settings from file, environment and flags; an error names source, line, key and reason."""

from roundhouse.config.load import Invalid, find, load, load_mapping, load_text, schema
from roundhouse.config.settings import (
    Auth,
    BreakerSettings,
    CheckSettings,
    ConfiguredKey,
    DriftSettings,
    Licences,
    Limits,
    Replicas,
    Resources,
    Server,
    Settings,
    StateSettings,
    StoreSettings,
    TargetSettings,
)

__all__ = [
    "Auth",
    "BreakerSettings",
    "CheckSettings",
    "ConfiguredKey",
    "DriftSettings",
    "Invalid",
    "Licences",
    "Limits",
    "Replicas",
    "Resources",
    "Server",
    "Settings",
    "StateSettings",
    "StoreSettings",
    "TargetSettings",
    "find",
    "load",
    "load_mapping",
    "load_text",
    "schema",
]
