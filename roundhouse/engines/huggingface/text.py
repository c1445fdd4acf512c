"""Tokens -> text as it can be shown, ended by a stop sequence. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopFinder"]


class StopFinder:
    """Finds the first of some texts in a text that comes in pieces, and never shows a beginning of one too early."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """What may be shown now. Once `stopped`, nothing more: the stop sequence and what follows it are dropped."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = self._begun(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back for a stop sequence that never came whole."""
        held, self._held = self._held, ""
        return "" if self.stopped else held

    def _begun(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop sequence."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
