"""Files of answers: every documented form, and a clear sentence with the place for everything else."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roundhouse.core.errors import InvalidRequest
from roundhouse.rating.answers import read_answers, read_questions

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def written(tmp_path: Path, text: str, name: str = "a.jsonl") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_row_for_each_variant(tmp_path: Path) -> None:
    rows = [{"id": 7, "question": "Why?", "context": "C.", "variant": name, "answer": name * 2} for name in "ab"]
    (found,) = read_answers(written(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n"))
    assert (found.question.id, found.question.messages, found.question.context) == ("7", (("user", "Why?"),), "C.")
    assert found.answers == {"a": "aa", "b": "bb"}


def test_a_row_for_each_question(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    text = json.dumps({"messages": turns, "answers": {"a": "1", "b": ""}})
    (found,) = read_answers(written(tmp_path, text))
    assert found.question.messages == (("system", "Be short."), ("user", "Why?"))
    assert found.answers == {"a": "1", "b": ""}


@pytest.mark.parametrize(
    "text",
    ["question,variant,answer\nWhy?,a,1\nWhy?,b,2\n", "question,answer_a,answer_b,mark\nWhy?,1,2,x\n"],
)
def test_both_forms_as_csv(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (found,) = read_answers(path)
    assert found.answers == {"a": "1", "b": "2"}


def test_without_an_id_the_text_tells_questions_apart(tmp_path: Path) -> None:
    rows = [{"question": q, "answers": {"a": "1", "b": "2"}} for q in ("Why?", "How?")]
    found = read_answers(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert len({one.question.id for one in found}) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "a.jsonl:1: no JSON"),
        ("[1]", "must be a JSON object"),
        ('{"answers": {"a": "1"}}', "needs `question`, `prompt` or `messages`"),
        ('{"question": "  ", "answers": {"a": "1"}}', "needs `question`"),
        ('{"question": "Why?"}', "needs `variant` and `answer`"),
        ('{"question": "Why?", "answers": {"a": 1}}', 'answer of "a" must be a text'),
        ('{"question": "Why?", "answers": {"": "1"}}', "a variant has no name"),
        ('{"question": "Why?", "answers": {"\\u001b[2J": "1"}}', "all of which can be shown"),
        ('{"question": "Why?", "context": 3, "answers": {}}', "`context` must be a text"),
        ('{"messages": [{"role": "tool", "content": ""}], "answers": {}}', "a message needs `role`"),
        ('{"id": [], "question": "Why?", "answers": {}}', "`id` must be"),
        ('{"question": "\\ud800", "answers": {"a": "1", "b": "2"}}', "half a character"),
        ('{"question": "Why?", "answers": {"a": "1"}}', "answers of 1 variants"),
        ('{"question": "Why?", "variant": "a", "answer": "1"}\n{"question": "Why?", "variant": "a", "answer": "2"}',
         'a.jsonl:2: "a" has answered this question otherwise'),
        ('{"id": 1, "question": "Why?", "variant": "a", "answer": "1"}\n'
         '{"id": 1, "question": "How?", "variant": "b", "answer": "2"}', "stood for another question"),
        ("", "answers of 0 variants"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_answers(written(tmp_path, text))
    assert said in str(raised.value)


def test_a_file_that_cannot_be_read_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_answers(tmp_path / "none.jsonl")
    with pytest.raises(InvalidRequest, match="as many fields"):
        read_answers(written(tmp_path, "question,variant,answer\nWhy?,a\n", "a.csv"))
    with pytest.raises(InvalidRequest, match="has no rows"):
        read_questions(written(tmp_path, "\n"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["a.jsonl", "a.csv"]))
def test_no_bytes_break_the_reader(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidRequest):
        read_answers(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TEXT.filter(str.strip), TEXT, TEXT)
def test_every_text_is_read_as_it_was_written(tmp_path: Path, question: str, one: str, two: str) -> None:
    row = {"id": "1", "question": question, "answers": {"a": one, "b": two}}
    (found,) = read_answers(written(tmp_path, json.dumps(row)))
    assert found.question.messages == (("user", question),)
    assert found.answers == {"a": one, "b": two}
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_ALL)
    rows.writerows([("id", "question", "variant", "answer"), ("1", question, "a", one), ("1", question, "b", two)])
    path = tmp_path / "a.csv"
    path.write_bytes(text.getvalue().encode())
    assert read_answers(path)[0].answers == {"a": one, "b": two}
