"""Datasets and what an answer is worth."""

from pathlib import Path

import pytest

from roundhouse.bench.dataset import DEMO, Question, read
from roundhouse.bench.quality import judge
from roundhouse.bench.records import Record
from roundhouse.core.chat import Message
from roundhouse.core.errors import InvalidRequest

WHO = (Message("user", "Who?"),)


def test_right_answers_score_full_and_wrong_ones_less() -> None:
    questions = [Question(str(n), WHO, (f"the port of number {n} is {n * 7}",), "port") for n in range(20)]
    right = [Record(n, 0, 0, 0, 0, text=questions[n].answers[0]) for n in range(20)]
    wrong = [Record(n, 0, 0, 0, 0, text="no idea at all") for n in range(20)]
    told, missed = judge(right, questions), judge(wrong, questions)
    assert told is not None
    assert missed is not None
    assert (told.exact_match, told.f1, told.rouge_l, told.by_kind) == (1.0, 1.0, 1.0, {"port": 1.0})
    assert told.bleu == pytest.approx(100)
    assert told.chrf == pytest.approx(100)
    assert "tok:13a" in told.signatures["bleu"]
    assert missed.exact_match == 0.0
    assert (missed.bleu or 0) < 5


def test_failed_requests_and_questions_without_an_answer_have_no_quality() -> None:
    questions = [Question("a", WHO), Question("b", WHO, ("x",))]
    assert judge([Record(0, 0, text="x"), Record(1, 0, error="timed_out")], questions) is None


def test_the_built_in_set_has_answers_to_all_it_asks() -> None:
    questions = read(DEMO)
    assert len(questions) == 440
    assert all(question.answers and "Context:" in question.messages[0].content for question in questions)


def test_each_kind_of_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(
        '{"prompt": "p"}\n\n{"question": "q", "answers": ["a", "b"], "id": 7}\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "other": 1}\n'
    )
    first, second, third = read(str(path))
    assert (first.messages, first.answers) == ((Message("user", "p"),), ())
    assert (second.id, second.answers) == ("7", ("a", "b"))
    assert [message.role for message in third.messages] == ["system", "user"]


@pytest.mark.parametrize(
    "row",
    ["{", "[]", "{}", '{"prompt": ""}', '{"prompt": 1}', '{"prompt": "p", "answers": "x"}', '{"messages": [{}]}'],
)
def test_a_row_that_is_none_is_said_with_its_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(f'{{"prompt": "p"}}\n{row}\n')
    with pytest.raises(InvalidRequest, match=r"set\.jsonl:2"):
        read(str(path))


def test_an_empty_or_missing_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("empty.jsonl", "none.jsonl"):
        with pytest.raises(InvalidRequest, match=name):
            read(str(tmp_path / name))
