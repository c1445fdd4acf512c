"""The ways a backend fails, and what a gateway before it owes its client. Data, and the judgement of what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["ANSWER", "CASES", "Case", "Owed", "Seen", "judge"]

ANSWER = "The turntable carries one locomotive at a time, and the traffic on the line does not stop for it."


class Owed(Enum):
    """What a client is owed."""

    ANSWER = "the whole answer"
    HONEST = "the whole answer, or an error that says it is one"
    REFUSAL = "the backend's refusal, and nobody else asked"
    RELEASE = "the backend released within 0.5 s"


@dataclass(frozen=True, slots=True)
class Case:
    """`fault` is what the backend does, `repeat` how often it is asked. `from_faulty`: no other backend may answer.

    `within_s` bounds one request at scale 1. `requests` names what the client sends: a question, `invalid` ones before
    it, or one that it gives up.
    """

    name: str
    about: str
    owed: Owed = Owed.ANSWER
    from_faulty: bool = False
    repeat: int = 1
    within_s: float = 45.0
    requests: str = "question"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one request brought: the client's side, and how often each backend was asked meanwhile."""

    status: int
    text: str
    finish_reason: str | None
    error: str
    seconds: float
    faulty_asked: int = 0
    spare_asked: int = 0
    usage: tuple[int, int] | None = None
    released_s: float | None = None


CASES: tuple[Case, ...] = (
    Case("healthy", "answers as it should", from_faulty=True),
    Case("refused", "nothing listens there", within_s=3),
    Case("reset", "the connection is reset before any byte", within_s=3),
    Case("silent", "takes the request and never says a word"),
    Case("slow_headers", "the status comes late, within the limit", from_faulty=True),
    Case("slow_first_token", "the first token comes late, within the limit", from_faulty=True),
    Case("stall", "goes silent in the middle of the answer", Owed.HONEST),
    Case("cut", "closes the connection in the middle of the answer", Owed.HONEST),
    Case("cut_in_character", "closes it in the middle of a character", Owed.HONEST),
    Case("malformed_first", "its first event is no JSON", within_s=5),
    Case("malformed_later", "an event in the middle is no JSON", Owed.HONEST),
    Case("error_frame", "an error frame in the middle, then [DONE]", Owed.HONEST),
    Case("no_terminator", "finishes with a reason, and leaves out [DONE]", from_faulty=True),
    Case("no_finish", "[DONE], and never a finish reason", Owed.HONEST),
    Case("429", "429 without Retry-After", within_s=5),
    Case("429_retry_after", "429 with Retry-After, 20 s at scale 1", within_s=5),
    Case("500_once", "500, and right the next time", within_s=8),
    Case("503", "503 for ever", within_s=8),
    Case("503_loading", "503, still loading its model", within_s=8),
    Case("context_overflow", "400, the prompt is larger than the window", Owed.REFUSAL, within_s=5),
    Case("content_refusal", "400, its filter refuses", Owed.REFUSAL, within_s=5),
    Case("flapping", "fails every other time", repeat=8, within_s=8),
    Case("wrong_usage", "its count of tokens is negative", from_faulty=True),
    Case("empty", "200 and an empty stream", within_s=5),
    Case("html", "200 and a web page", within_s=5),
    Case("dropped_keep_alive", "closes a connection it promised to keep", from_faulty=True, repeat=3),
    Case("drip", "one token each second", from_faulty=True, within_s=60),
    Case("invalid_requests", "50 requests that are the client's mistake, then a right one", from_faulty=True,
         requests="invalid"),
    Case("client_leaves", "healthy and long; the client hangs up", Owed.RELEASE, requests="leave"),
)  # fmt: skip


def judge(case: Case, seen: Seen, scale: float) -> str:
    """What is wrong with what was seen; empty = nothing."""
    if seen.seconds > max(2.0, case.within_s * scale):
        return f"took {seen.seconds:.1f} s"
    if case.owed is Owed.RELEASE:
        if seen.released_s is None:
            return "the backend was never released"
        return "" if seen.released_s <= 0.5 else f"the backend was released after {seen.released_s:.2f} s"
    whole = seen.status == 200 and not seen.error and seen.text == ANSWER and seen.finish_reason == "stop"
    refused = bool(seen.error) and seen.finish_reason is None
    if case.owed is Owed.REFUSAL:
        if seen.spare_asked:
            return "another backend was asked"
        return "" if refused and 400 <= seen.status < 500 else "the refusal did not come through"
    if seen.usage is not None and min(seen.usage) < 0:
        return "a negative count of tokens came through"
    if whole:
        return "another backend answered" if case.from_faulty and seen.spare_asked else ""
    if case.owed is Owed.HONEST and refused:
        return ""
    if seen.status == 200 and not seen.error and seen.text != ANSWER:
        return "a wrong or cut answer that looks whole"
    return f"no answer: {seen.error or seen.status}"
