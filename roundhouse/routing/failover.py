"""What to do after a failed attempt: another candidate, the same once more, go on from what was sent, or give up. Pure.

Before the commit point (the first real content sent to the client) any failure that another candidate could cure
moves on silently. After it, only a target of the same model that can extend a text may go on from the very text that
was sent; an answer begun anew would contradict what the client has in hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from roundhouse.core.chat import ChatRequest, Chunk
from roundhouse.core.errors import (
    AllProvidersFailed,
    Attempt,
    BadResponse,
    ConnectFailed,
    Died,
    EngineError,
    Error,
    Loading,
    Misconfigured,
    ProviderError,
    TimedOut,
)

__all__ = ["Sent", "conclude", "counts_as_attempt", "may_ask_again", "may_go_on"]


@dataclass(slots=True)
class Sent:
    """What the client has of an answer so far, in the pieces it came in."""

    parts: list[str] = field(default_factory=list)
    beyond_text: bool = False

    def add(self, chunk: Chunk) -> None:
        if chunk.text:
            self.parts.append(chunk.text)
        if chunk.reasoning or chunk.tool_calls:
            self.beyond_text = True

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def pieces_of(self, characters: int) -> int:
        """How many pieces the first `characters` came in."""
        count = 0
        while characters > 0 and count < len(self.parts):
            characters -= len(self.parts[count])
            count += 1
        return count

    @property
    def committed(self) -> bool:
        return bool(self.parts) or self.beyond_text

    def copy(self) -> Sent:
        """What more is added to it is not in the original."""
        return Sent(list(self.parts), self.beyond_text)


def may_go_on(error: Error, request: ChatRequest, sent: Sent) -> bool:
    """Whether any other attempt may follow `error`."""
    if not (error.failover and request.fallback):
        return False
    if not sent.committed:
        return True
    plain = not (request.tools or request.json_schema is not None or request.logprobs is not None)
    return plain and not sent.beyond_text and "n" not in request.extra and "grammar" not in request.extra


def may_ask_again(error: Error) -> bool:
    """Whether the same backend may be asked once more: never one that was silent, or that nothing listens at."""
    if isinstance(error, ConnectFailed):
        return not error.refused
    if isinstance(error, (TimedOut, Misconfigured, BadResponse)):
        return False
    return isinstance(error, (ProviderError, Died))


def counts_as_attempt(error: Error) -> bool:
    """Whether `error` uses up one of a request's attempts; a refused connection or a load under way cost nothing."""
    if isinstance(error, ConnectFailed):
        return not error.refused
    return not isinstance(error, (Loading, Misconfigured, EngineError))


def conclude(route: str, failures: Sequence[tuple[Attempt, Error]]) -> Error:
    """The error for a request whose candidates are used up.

    One attempt: its own error, so that callers can judge it by type. Several: `AllProvidersFailed`, which lists every
    attempt and whose `cause` is the first candidate's error, for the later ones are often consequences.
    """
    if len(failures) == 1:
        return failures[0][1]
    attempts = tuple(attempt for attempt, _ in failures)
    reasons = "; ".join(f"{attempt.target}: {attempt.reason}" for attempt in attempts)
    return AllProvidersFailed(
        f'no target of route "{route}" could answer: {reasons}', attempts=attempts, cause=failures[0][1]
    )
