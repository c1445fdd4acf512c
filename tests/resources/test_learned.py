"""What loads took is remembered, never believed beyond reason, and never in the way."""

import json
from pathlib import Path

import pytest

from roundhouse.resources.learned import Learned, load_key


def test_a_load_that_took_more_raises_the_next_plan_and_one_that_took_less_does_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "loads.json"
    Learned(path).record("a", {"cpu": 100}, {"cpu": 120})
    Learned(path).record("b", {"cpu": 100}, {"cpu": 60})
    again = Learned(path)
    assert again.raised("a", {"cpu": 100}) == {"cpu": 120}
    assert again.raised("b", {"cpu": 100}) == {"cpu": 100}
    assert again.raised("unknown", {"cpu": 7, "cuda0": 9}) == {"cpu": 7, "cuda0": 9}


def test_the_most_that_was_ever_seen_counts(tmp_path: Path) -> None:
    learned = Learned(tmp_path / "loads.json")
    for taken in (150, 110):
        learned.record("a", {"cpu": 100}, {"cpu": taken})
    assert learned.raised("a", {"cpu": 100}) == {"cpu": 150}


def test_an_absurd_measurement_is_bounded() -> None:
    learned = Learned()
    learned.record("a", {"cpu": 100}, {"cpu": 10**12})
    assert learned.raised("a", {"cpu": 100}) == {"cpu": 300}


def test_two_processes_that_learn_keep_what_both_saw(tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    one, other = Learned(path), Learned(path)
    one.record("a", {"cpu": 1}, {"cpu": 2})
    other.record("b", {"cpu": 1}, {"cpu": 2})
    assert set(json.loads(path.read_text())["loads"]) == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"version": 99, "loads": {}}',
        '{"version": 1, "loads": {"a": 3}}',
        '{"version": 1, "loads": {"a": {"predicted": {"cpu": 1}, "taken": {"cpu": 1e999}}}}',
    ],
    ids=["empty", "cut", "no table", "deep", "another version", "no load", "endless"],
)
def test_a_broken_file_is_the_same_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "loads.json"
    path.write_text(text)
    learned = Learned(path)
    assert learned.raised("a", {"cpu": 5}) == {"cpu": 5}
    learned.record("a", {"cpu": 5}, {"cpu": 6})
    assert Learned(path).raised("a", {"cpu": 5}) == {"cpu": 6}


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    learned = Learned(tmp_path / "file" / "loads.json")
    learned.record("a", {"cpu": 5}, {"cpu": 6})
    assert learned.raised("a", {"cpu": 5}) == {"cpu": 6}


def test_another_file_under_the_same_name_is_another_load(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("one")
    before = load_key("llamacpp", path, {"n_ctx": 1})
    path.write_text("other")
    assert load_key("llamacpp", path, {"n_ctx": 1}) != before
