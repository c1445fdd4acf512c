"""Prompts that come with the house, as files beside this one: `wordings/`.

A prompt of the same name in the user's folder or configuration takes the place of one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from roundhouse.prompts.catalog import Catalog
from roundhouse.prompts.files import read_folder

__all__ = ["REFUSAL", "builtin"]

REFUSAL = "I don't have enough information to answer this question."


@cache
def builtin() -> Catalog:
    """Read once."""
    return Catalog(read_folder(Path(str(files("roundhouse.prompts") / "wordings"))))
