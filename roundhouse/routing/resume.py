"""How another backend goes on from what a client has of an answer, so that nobody sees where the seam is. Pure.

A text that ends inside a word is read by a model as other tokens than those it was written by, and goes on otherwise.
So the last word is given up: the backend is asked to go on before it, writes it again, and what it writes is taken
off. With greedy decoding that is the very same word. Where it is not, as may be when sampling, it is asked to go on
from the exact text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Message, Usage

__all__ = ["Differs", "Resume", "Strip", "joined_usage", "resumes"]

# A longer last "word" is a text without spaces; writing that again would cost more than it gives.
_LONGEST_WORD = 40


class Differs(Exception):
    """The backend wrote something else than what the client has already."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on after `kept`; `again` is what the client has beyond it, to be written again and taken off."""

    kept: str
    again: str

    def request(self, request: ChatRequest, kept_tokens: int) -> ChatRequest:
        """`request`, to be answered from `kept` on. `max_tokens` counts what was sent."""
        messages = request.messages
        sampling = request.sampling
        if sampling.max_tokens is not None:
            sampling = replace(sampling, max_tokens=max(1, sampling.max_tokens - kept_tokens))
        if request.continue_last or request.raw:
            last = messages[-1]
            messages = (*messages[:-1], replace(last, content=last.content + self.kept))
        elif self.kept:
            messages = (*messages, Message("assistant", self.kept))
        continues = not request.raw and (request.continue_last or bool(self.kept))
        return replace(request, messages=messages, continue_last=continues, sampling=sampling)


def resumes(sent: str) -> tuple[Resume, ...]:
    """The ways to go on, the best first; the last one always works."""
    exact = Resume(sent, "")
    found = re.search(r"(?:^|\s+)\S+\s*$", sent)
    if found is None or len(found[0]) > _LONGEST_WORD:
        return (exact,)
    return Resume(sent[: found.start()], found[0]), exact


class Strip:
    """Takes `again` off the beginning of a text that comes in pieces. Raises `Differs` where it is something else."""

    def __init__(self, again: str) -> None:
        self._left = again

    @property
    def done(self) -> bool:
        return not self._left

    def feed(self, piece: str) -> str:
        """What of `piece` is new to the client."""
        if not self._left:
            return piece
        common = min(len(piece), len(self._left))
        if piece[:common] != self._left[:common]:
            raise Differs
        self._left = self._left[common:]
        return piece[common:]


def joined_usage(last: Usage | None, prompt_tokens: int, kept_tokens: int) -> Usage | None:
    """The usage of a whole answer from that of its last part, in which what was kept was prompt."""
    if last is None:
        return None
    return Usage(prompt_tokens, kept_tokens + last.completion_tokens, min(last.cached_tokens, prompt_tokens))
