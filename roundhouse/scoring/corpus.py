"""BLEU and chrF of many answers together, by sacrebleu, whose signatures make a number reproducible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roundhouse.core.errors import MissingExtra

__all__ = ["METRICS", "CorpusScore", "corpus_scores", "paired_scores"]

METRICS = ("bleu", "chrf")
# As sacrebleu's own command has it.
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class CorpusScore:
    """`value`: 0 to 100. `low` and `high`: 95 % by the bootstrap; `p`: of no difference from the first variant, 1 for
    that itself.
    """

    value: float
    signature: str
    low: float
    high: float
    p: float


def corpus_scores(texts: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, tuple[float, str]]:
    """By metric, the score (0 to 100) and its signature; one text for each list of right answers.

    Raises `MissingExtra` without sacrebleu.
    """
    streams = _streams(answers)
    return {
        name: (metric.corpus_score([text.strip() for text in texts], streams).score, str(metric.get_signature()))
        for name, metric in _metrics().items()
    }


def paired_scores(
    texts: Mapping[str, Sequence[str]], answers: Sequence[Sequence[str]], metric: str
) -> dict[str, CorpusScore]:
    """By variant, each compared with the first by sacrebleu's paired bootstrap (Koehn 2004), its seed 12345.

    Raises `MissingExtra` without sacrebleu.
    """
    chosen = {metric: _metrics(_streams(answers))[metric]}
    from sacrebleu.significance import PairedTest

    systems: list[tuple[str, Sequence[str]]] = [(name, [text.strip() for text in told]) for name, told in texts.items()]
    tested: Any = PairedTest(systems, chosen, None, test_type="bs", n_samples=_RESAMPLES)
    signatures, told = tested()
    ((name, results),) = ((name, found) for name, found in told.items() if name != "System")
    return {
        variant: CorpusScore(
            float(one.score),
            str(signatures[name]),
            float(one.mean - one.ci),
            float(one.mean + one.ci),
            1.0 if one.p_value is None else float(one.p_value),
        )
        for variant, one in zip(texts, results, strict=True)
    }


def _metrics(references: Sequence[Sequence[str]] | None = None) -> dict[str, Any]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtra('BLEU and chrF need sacrebleu: pip install "roundhouse[bench]"', extra="bench") from error
    return {"bleu": BLEU(references=references), "chrf": CHRF(references=references)}


def _streams(answers: Sequence[Sequence[str]]) -> list[list[str]]:
    """One stream for each reference, not one list for each answer; a missing one is an empty text there."""
    most = max((len(one) for one in answers), default=0)
    return [[one[number] if number < len(one) else "" for one in answers] for number in range(most)]
