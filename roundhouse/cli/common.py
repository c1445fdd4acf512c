"""What several commands share: reading the settings, printing JSON, telling something on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from roundhouse.config import Settings, load
from roundhouse.gateway.build import provider_types

__all__ = ["ConfigOption", "JSONOption", "print_json", "settings_of", "tell"]

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file; default: $ROUNDHOUSE_CONFIG, config/llm_config.yaml."),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def settings_of(path: Path | None, flags: Mapping[str, Any] | None = None) -> Settings:
    return load(path, flags=flags, environ=os.environ, cwd=Path.cwd(), types=provider_types())


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def tell(text: str) -> None:
    """A line for the person, apart from the output."""
    print(text, file=sys.stderr)
