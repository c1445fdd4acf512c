"""What other programs get: every judgement, and pairs in the form that TRL's DPOTrainer takes."""

from pathlib import Path

from roundhouse.rating.answers import Question, Rated
from roundhouse.rating.export import Form, rows
from roundhouse.rating.judgement import Outcome
from roundhouse.rating.store import Design, Store


def filled(path: Path) -> Store:
    store = Store(path, Design())
    turns = (("system", "Be short."), ("user", "Why?"))
    store.add([Rated(Question(f"q{n}", turns, "About."), {"a": f"a{n}", "b": f"b{n}"}) for n in range(5)])
    said = [
        ("ada", Outcome.FIRST), ("ada", Outcome.SECOND), ("ada", Outcome.BOTH_BAD), ("ada", None),
        ("ada", Outcome.FIRST),
    ]  # fmt: skip
    for compared, (rater, outcome) in zip(store.comparisons(), said, strict=True):
        store.record(compared, rater, outcome, "b", "a note", 2.5, 0.0)
    store.record(store.comparisons()[4], "bob", Outcome.SECOND, "a", "", 1.0, 0.0)
    store.record(store.comparisons()[1], "bob", Outcome.TIE, "a", "", 1.0, 0.0)
    return store


def test_pairs_hold_the_answer_that_more_raters_preferred(tmp_path: Path) -> None:
    """Ties, both bad, skips and raters who outweigh each other make no pair."""
    found = list(rows(filled(tmp_path / "a.ratings"), Form.DPO))
    prompt = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "About.\n\nWhy?"}]
    assert found == [
        {"prompt": prompt, "chosen": [{"role": "assistant", "content": "a0"}],
         "rejected": [{"role": "assistant", "content": "b0"}]},
        {"prompt": prompt, "chosen": [{"role": "assistant", "content": "b1"}],
         "rejected": [{"role": "assistant", "content": "a1"}]},
    ]  # fmt: skip


def test_pairs_as_plain_texts(tmp_path: Path) -> None:
    first, *_ = rows(filled(tmp_path / "a.ratings"), Form.DPO_TEXT)
    assert first == {"prompt": "Be short.\n\nAbout.\n\nWhy?", "chosen": "a0", "rejected": "b0"}


def test_every_judgement_is_a_row_with_its_note(tmp_path: Path) -> None:
    found = list(rows(filled(tmp_path / "a.ratings"), Form.JUDGEMENTS))
    assert [(one["rater"], one["outcome"], one["preferred"]) for one in found] == [
        ("ada", "first", "a"), ("ada", "second", "b"), ("ada", "both bad", None), ("ada", "skip", None),
        ("ada", "first", "a"), ("bob", "second", "b"), ("bob", "tie", None),
    ]  # fmt: skip
    assert found[0]["note"] == "a note"
    assert (found[0]["variants"], found[0]["left"], found[0]["at"]) == (["a", "b"], "b", "1970-01-01T00:00:00+00:00")
