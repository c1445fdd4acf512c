"""Builds the house from settings; the library's public face, async and blocking."""

import logging

from roundhouse.gateway.gateway import Gateway, Reported

__all__ = ["Gateway", "Reported"]

# An application decides what of our log is shown; without this Python would print the warnings by itself.
logging.getLogger("roundhouse").addHandler(logging.NullHandler())
