"""What to do after a failed attempt: ask the next candidate, or give up. Pure: the manager carries it out.

Before the commit point (the first real content sent to the client) any failure that another candidate could cure
moves on silently. After it nothing is retried: the client has text in hand that a second answer would contradict.
"""

from __future__ import annotations

from collections.abc import Sequence

from roundhouse.core.errors import AllProvidersFailed, Attempt, Error

__all__ = ["conclude", "may_try_next"]


def may_try_next(error: Error, *, committed: bool, fallback: bool) -> bool:
    """Whether the next candidate may be asked after `error`; `fallback` is the caller's own wish."""
    return error.failover and fallback and not committed


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
