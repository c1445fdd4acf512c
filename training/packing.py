"""Groups -> padded batches of token ids. Many questions share one context: each is a branch that sees the context and
itself, never the other branches (a block mask), at the positions it would have if it stood there alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from training.data import REFUSAL, Group, Shape, make_group
from training.prompts import CONTEXT_LABEL, QUESTION_LABEL, TAIL, other_wording

__all__ = ["ANSWER", "CONTEXT", "FIRST", "Batch", "Mixture", "batches"]

# What a token is for. FIRST: the first token of an answer, which decides between answering and refusing.
CONTEXT, QUESTION, FIRST, ANSWER = 1, 2, 3, 4
_EOS = "</s>"


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays [groups, length]: token ids; branch (-1 = padding, 0 = shared context); position; purpose."""

    ids: npt.NDArray[np.int64]
    branch: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    purpose: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of sequences that are not `rag_query` over a context."""

    shape: Shape = field(default_factory=Shape)
    other_wordings: float = 0.06
    no_context: float = 0.02
    summaries: float = 0.02
    copies: float = 0.05


Row = tuple[list[int], list[int], list[int], list[int]]


class _Packer:
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._head = [tokenizer.convert_tokens_to_ids("<s>"), tokenizer.convert_tokens_to_ids("[INST]")]
        self._answer_follows = tokenizer.convert_tokens_to_ids("[/INST]")
        self._vocabulary = len(tokenizer)

    def encode(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)[
            "input_ids"
        ]
        return ids

    def group(self, group: Group) -> Row:
        questions = [f"{QUESTION_LABEL} {case.question}{TAIL}" for case in group.cases]
        answers = [f" {case.answer}{_EOS}" for case in group.cases]
        encoded = self.encode([f" {CONTEXT_LABEL}{group.context}", *questions, *answers])
        context = self._head + encoded[0]
        row: Row = (list(context), [0] * len(context), list(range(len(context))), [CONTEXT] * len(context))
        for branch, (question, answer) in enumerate(
            zip(encoded[1 : 1 + len(questions)], encoded[1 + len(questions) :], strict=True), 1
        ):
            self._add(row, [*question, self._answer_follows], answer, branch, len(context))
        return row

    def single(self, content: str, answer: str) -> Row:
        """A conversation of one turn, in any wording."""
        asked, told = self.encode([f" {content}", f" {answer}{_EOS}"])
        row: Row = ([], [], [], [])
        self._add(row, [*self._head, *asked, self._answer_follows], told, 0, 0)
        return row

    def copy(self, rng: Random) -> Row:
        """Chunks of random tokens, then the same chunks in another order: exercise for the copying heads."""
        chunks = [[rng.randrange(261, self._vocabulary - 3) for _ in range(rng.randint(3, 8))] for _ in range(8)]
        row: Row = ([], [], [], [])
        offset = rng.randrange(100)
        for chunk in chunks:
            self._add(row, chunk, [], 0, offset)
        for chunk in rng.sample(chunks, len(chunks)):
            self._add(row, chunk[:1], chunk[1:], 0, offset)
        row[3][:] = [ANSWER if purpose == FIRST else purpose for purpose in row[3]]
        return row

    @staticmethod
    def _add(row: Row, asked: list[int], told: list[int], branch: int, start: int) -> None:
        ids, branches, positions, purposes = row
        here = start if branch else start + len(ids)
        ids += asked + told
        branches += [branch] * (len(asked) + len(told))
        positions += range(here, here + len(asked) + len(told))
        purposes += [QUESTION] * len(asked) + ([FIRST] + [ANSWER] * (len(told) - 1) if told else [])


def batches(tokenizer: PreTrainedTokenizerBase, rng: Random, mixture: Mixture, groups: int) -> Iterator[Batch]:
    """Batches of about `groups` groups without end; sequences of like length stand together, to waste no padding."""
    packer = _Packer(tokenizer)
    while True:
        rows = [row for _ in range(groups * 8) for row in _draw(packer, rng, mixture)]
        rows.sort(key=lambda row: len(row[0]))
        budget = groups * len(rows[len(rows) // 2][0])
        made: list[Batch] = []
        pending: list[Row] = []
        for row in rows:
            if pending and (len(pending) + 1) * len(row[0]) > budget:
                made.append(_pad(pending))
                pending = []
            pending.append(row)
        made.append(_pad(pending))
        rng.shuffle(made)
        yield from made


def _draw(packer: _Packer, rng: Random, mixture: Mixture) -> list[Row]:
    chance = rng.random()
    if chance < mixture.copies:
        return [packer.copy(rng) for _ in range(2)]
    group = make_group(rng, "train", mixture.shape)
    if chance < mixture.copies + mixture.other_wordings:
        cases = rng.sample(group.cases, 2)
        return [packer.single(other_wording(rng, group.context, case.question), case.answer) for case in cases]
    chance -= mixture.copies + mixture.other_wordings
    if chance < mixture.no_context:
        return [packer.single(case.question, REFUSAL) for case in group.cases[:2]]
    if chance < mixture.no_context + mixture.summaries:
        first = group.context.replace("\n", " ").split(". ")[0].rstrip(".") + "."
        return [packer.single(f"Summarize the following text in 2-3 sentences:\n\n{group.context}", first)]
    return [packer.group(group)]


def _pad(rows: list[Row]) -> Batch:
    width = -(-max(len(row[0]) for row in rows) // 16) * 16
    arrays = [np.full((len(rows), width), fill, np.int64) for fill in (2, -1, 0, 0)]
    for place, row in enumerate(rows):
        for array, values in zip(arrays, row, strict=True):
            array[place, : len(values)] = values
    return Batch(*arrays)
