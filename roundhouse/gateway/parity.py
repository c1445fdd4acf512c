"""Do all backends read the same conversation? One fixture through each one's own chat template, compared by tokens.

The same model in two backends must read the same tokens: llama.cpp formats by the template in the GGUF, Ollama by one
of its own, and a difference costs quality without a word. Targets of different models differ rightly, and a failover
between them is told apart from one that should have been seamless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roundhouse.core.chat import ChatRequest, Message
from roundhouse.core.errors import Error
from roundhouse.gateway.wordings import Read

__all__ = ["FIXTURE", "Parity", "Verdict", "compared"]

# A system text, a second turn, and what templates and tokenizers are known to differ in: spaces at the edges, line
# breaks, a number, letters beyond ASCII, and a special token as plain text.
FIXTURE = ChatRequest(
    (
        Message("system", "Answer briefly."),
        Message("user", " Who built it?\n\n  In 1871, or 1 871? "),
        Message("assistant", "Ines Calder."),
        Message("user", "And the Straße to Łódź 🚂?"),
    )
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target against the first of its family. `same` None = nothing to compare with, or it does not say."""

    target: str
    family: str
    tokens: int
    same: bool | None
    said: str

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Parity:
    verdicts: tuple[Verdict, ...]

    @property
    def holds(self) -> bool:
        return not any(verdict.same is False for verdict in self.verdicts)


def compared(reads: Mapping[str, Read | Error]) -> Parity:
    """The verdict on each target, in order. Pure."""
    first: dict[str, Read] = {}
    verdicts = []
    for name, read in reads.items():
        if isinstance(read, Error):
            verdicts.append(Verdict(name, "", 0, None, f"cannot be asked: {read}"))
            continue
        if read.tokens is None:
            verdicts.append(Verdict(name, read.family, 0, None, "its backend does not tell tokens"))
            continue
        reference = first.setdefault(read.family, read)
        verdicts.append(_verdict(read, reference))
    return Parity(tuple(verdicts))


def _verdict(read: Read, reference: Read) -> Verdict:
    assert read.tokens is not None
    assert reference.tokens is not None
    ids, wanted = read.tokens.ids, reference.tokens.ids
    if read is reference:
        return Verdict(read.target, read.family, len(ids), None, "the first of its family")
    if ids == wanted:
        return Verdict(read.target, read.family, len(ids), True, f"the same tokens as {reference.target}")
    at = _first_difference(ids, wanted)
    said = f"differs from {reference.target} at token {at}: {_around(ids, at)} against {_around(wanted, at)}"
    if read.tokens.text != reference.tokens.text and read.tokens.text and reference.tokens.text:
        at = _first_difference(read.tokens.text, reference.tokens.text)
        said += f"; texts {read.tokens.text[at : at + 24]!r} against {reference.tokens.text[at : at + 24]!r}"
    return Verdict(read.target, read.family, len(ids), False, said)


def _first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _around(ids: Sequence[int], at: int) -> str:
    return str(list(ids[at : at + 4])) if at < len(ids) else "the end"
