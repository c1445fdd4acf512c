"""How a ready engine is reached: plain values, so that another process can be told."""

from __future__ import annotations

import msgspec

from roundhouse.providers.base import Endpoint

__all__ = ["Contact"]


class Contact(msgspec.Struct, frozen=True):
    """Which client speaks to it, by the name of its provider, and where it answers."""

    kind: str
    endpoint: Endpoint
