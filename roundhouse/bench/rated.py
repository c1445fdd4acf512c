"""Ratings by people beside a benchmark: the answers of runs to be rated, and the section of the report about them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from roundhouse.bench import dataset as datasets
from roundhouse.bench.document import table
from roundhouse.bench.results import Results
from roundhouse.core.errors import InvalidRequest
from roundhouse.rating.answers import Question, Rated, check_variant
from roundhouse.rating.status import Status
from roundhouse.rating.table import agreed, counted_raters, said_of

__all__ = ["answers_of", "section"]


def answers_of(runs: Sequence[tuple[Path, Results]]) -> list[Rated]:
    """The first answer of each run to each question; a run's label is the variant.

    Raises `InvalidRequest` for runs without texts, over different datasets, or of the same label.
    """
    labels = [run.label for _, run in runs]
    if len(runs) < 2 or len(set(labels)) < len(labels):
        said = f"give the results of two runs at least, with different labels (`bench run --label`), not {labels}"
        raise InvalidRequest(said, param="answers")
    for path, run in runs:
        check_variant(run.label, str(path))
    names = {str(run.settings.get("dataset", "")) for _, run in runs}
    if len(names) > 1 or not all(names):
        raise InvalidRequest(f"the runs asked different questions: {', '.join(sorted(names))}", param="answers")
    questions = datasets.read(names.pop())
    answers: dict[int, dict[str, str]] = {}
    for path, run in runs:
        found = _texts(path, run)
        if max(found) >= len(questions):
            raise InvalidRequest(f"{path}: the dataset has fewer rows than when it was asked", param="answers")
        for item, text in found.items():
            answers.setdefault(item, {})[run.label] = text
    return [Rated(_question(questions[item]), told) for item, told in sorted(answers.items())]


def section(status: Status, runs: Sequence[Results]) -> str:
    """HTML: the pairs with their test, the ranking from three variants on, the raters' agreement."""
    rows = [
        (
            f"{one.first} / {one.second}", str(one.wins), str(one.losses), str(one.ties), str(one.both_bad),
            str(status.identical.get((one.first, one.second), 0)),
            f"{one.share.estimate:.1%} [{one.share.low:.1%}, {one.share.high:.1%}]" if one.wins + one.losses else "",
            f"{one.evidence:.3g}", said_of(one),
        )
        for one in status.preferences
    ]  # fmt: skip
    head = ("pair", "first", "second", "ties", "both bad", "identical", "for the first", "e-value", "result")
    parts = [
        "<h2>Rated by people</h2>",
        f"<p>{status.judged} of {status.comparisons} comparisons judged blind by {counted_raters(status)}.</p>",
        table(head, rows),
    ]
    if status.strengths:
        strong = [(one.variant, one.said) for one in status.strengths]
        parts.append(table(("Bradley-Terry with ties", "points [95 % interval]"), strong))
    labels = {run.label for run in runs}
    strangers = [variant for variant in status.variants if variant not in labels]
    said = [*agreed(status), *([f"Of no run on this page: {', '.join(strangers)}."] if strangers else ())]
    said.append(
        "Identical answers were not shown. The share is of judgements with a preference; its interval and e-value hold "
        f"however often one looks (all pairs together at {status.design.alpha:g})."
    )
    return "".join(parts) + "".join(f"<p><small>{escape(line)}</small></p>" for line in said)


def _texts(path: Path, run: Results) -> dict[int, str]:
    found: dict[int, str] = {}
    for point in run.points:
        for record in point.records:
            if record.answered and record.text:
                found.setdefault(record.item, record.text)
    if not found:
        raise InvalidRequest(f"{path} holds no answers; run it with --texts", param="answers")
    return found


def _question(question: datasets.Question) -> Question:
    return Question(question.id, tuple((message.role, message.content) for message in question.messages))
