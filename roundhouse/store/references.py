"""How a model in the store is named: `NAME[:VARIANT][@REVISION]`, such as `mistral-7b-instruct:q8_0@1f3a`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from roundhouse.core.errors import InvalidRequest

__all__ = ["Reference", "is_name", "named_after"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_REFERENCE = re.compile(r"([^:@/]+)(?::([^:@/]+))?(?:@([0-9A-Za-z._-]+))?")


def is_name(text: str) -> bool:
    """Whether `text` can be a model's or a variant's name: it becomes a folder's."""
    return bool(_NAME.fullmatch(text)) and ".." not in text


def named_after(text: str) -> str:
    """A model's name for a file or a repository that is called `text`."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return re.sub(r"\.{2,}", ".", plain)[:96] or "model"


@dataclass(frozen=True, slots=True)
class Reference:
    """`variant` empty = whichever is there; `revision`: the beginning of an id or of the source's, empty = current."""

    name: str
    variant: str = ""
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises `InvalidRequest`."""
        found = _REFERENCE.fullmatch(text)
        if not found or not is_name(found[1].lower()) or (found[2] and not is_name(found[2].lower())):
            raise InvalidRequest(
                f'"{text}" cannot name a model of the store; write NAME, NAME:VARIANT or NAME@REVISION', param="model"
            )
        return cls(found[1].lower(), (found[2] or "").lower(), found[3] or "")

    def __str__(self) -> str:
        variant = f":{self.variant}" if self.variant else ""
        return f"{self.name}{variant}" + (f"@{self.revision}" if self.revision else "")
