"""Builds the house from settings; the library's public face, async and blocking."""

from roundhouse.gateway.gateway import Gateway, Reported

__all__ = ["Gateway", "Reported"]
