"""What is said of answers that are known."""

import pytest

from roundhouse.core.errors import InvalidRequest
from roundhouse.evaluate.evaluation import evaluate
from roundhouse.evaluate.page import page
from roundhouse.evaluate.table import lines, sided
from roundhouse.rating.answers import Question, Rated


def _rated(count: int = 40, **answers: str) -> list[Rated]:
    """The right answer is `yes`; the last questions have none."""
    found = []
    for n in range(count):
        right, kind = ("yes",) if n < count - 5 else (), ("odd", "even")[n % 2]
        question = Question(str(n), (("user", f"Question {n}?"),), right=right, kind=kind)
        found.append(Rated(question, {name: (text if n % 3 else "yes") for name, text in answers.items()}))
    return found


def test_the_first_metric_decides_and_names_who_is_better() -> None:
    told = evaluate(_rated(old="no", new="Yes."), ("old", "new"), ["exact_match", "characters"], dataset="d")
    first = told.metrics[0]
    assert (first.n, told.common, told.control) == (35, 40, "old")
    assert first.variants["new"].value == 1
    assert first.variants["old"].value == pytest.approx(12 / 35)
    against = first.against["new"]
    assert (against.said, against.gained, against.lost) == ("higher", 23, 0)
    assert against.p == pytest.approx(2 / 2**23)
    assert told.metrics[1].n == 40
    assert sided(told).startswith("new is higher than old: +65.7 points")
    assert "exact_match: new is higher" in "\n".join(lines(told))


def test_variants_that_answer_alike_are_never_said_to_differ() -> None:
    told = evaluate(_rated(a="no", b="no", c="no"), ("a", "b", "c"), ["exact_match", "f1", "bleu"], dataset="d")
    assert not [one.said for metric in told.metrics for one in metric.against.values() if one.said]
    assert told.differ == {"b": (), "c": ()}


def test_questions_that_one_has_not_answered_are_left_out_for_all_and_counted() -> None:
    rated = _rated(old="no", new="yes")
    rated[1] = Rated(rated[1].question, {"old": "no"})
    told = evaluate(rated, ("old", "new"), ["exact_match"], dataset="d")
    assert (told.questions, told.common) == (40, 39)
    assert told.unanswered == {"old": 0, "new": 1}
    assert "new has no answer to 1" in "\n".join(lines(told))


def test_p_values_are_corrected_for_the_number_of_variants() -> None:
    rated = _rated(a="no", b="yes", c="no")
    one = evaluate(rated, ("a", "b"), ["exact_match"], dataset="d").metrics[0].against["b"]
    two = evaluate(rated, ("a", "b", "c"), ["exact_match"], dataset="d").metrics[0].against["b"]
    assert one.corrected == one.p == two.p
    assert two.corrected == 2 * two.p


@pytest.mark.parametrize("metrics", [["exact_match"], ["bleu"], ["f1", "chrf"]])
def test_right_answers_that_are_missing_are_said(metrics: list[str]) -> None:
    rated = [Rated(Question(str(n), (("user", "?"),)), {"a": "x", "b": "y"}) for n in range(4)]
    with pytest.raises(InvalidRequest, match="nothing can be measured"):
        evaluate(rated, ("a", "b"), metrics, dataset="d")


def test_the_page_shows_where_they_differ_and_escapes_what_came_from_outside() -> None:
    evil = "<script>alert(1)</script>"
    rated = _rated(**{"old": evil, f"new{evil}": "yes"})
    told = evaluate(rated, ("old", f"new{evil}"), ["exact_match", "bleu"], dataset=evil, notes=[evil])
    html = page(told, rated)
    assert "<script" not in html
    assert html.count("<details>") == 20
    assert "http" not in html.replace("http://www.w3.org", "")
    assert "nrefs:1" in html
