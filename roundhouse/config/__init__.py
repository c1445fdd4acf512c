"""Frozen settings from file, environment and flags; an error names source, line, key and reason."""

from roundhouse.config.load import Invalid, find, load, load_mapping, load_text, schema
from roundhouse.config.settings import BreakerSettings, Limits, Replicas, Resources, Server, Settings, TargetSettings

__all__ = [
    "BreakerSettings",
    "Invalid",
    "Limits",
    "Replicas",
    "Resources",
    "Server",
    "Settings",
    "TargetSettings",
    "find",
    "load",
    "load_mapping",
    "load_text",
    "schema",
]
