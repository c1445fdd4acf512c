"""The last benchmarks on disk: whole or not there, bounded, and no id is a path."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.errors import StoreError
from roundhouse.history import runs
from roundhouse.history.runs import keep, kept, report_of

SUMMARY = {"label": "a", "points": []}


def _keep(folder: Path, second: int = 0) -> Path:
    return keep(folder, f"2026-11-24T13:01:{second:02}+00:00", b"{}", SUMMARY, "<p>report</p>")


def test_the_newest_is_first_and_the_oldest_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST", 3)
    places = [_keep(tmp_path, second) for second in range(5)]
    assert [one.id for one in kept(tmp_path)] == [place.name for place in reversed(places[2:])]
    assert kept(tmp_path)[0].summary == SUMMARY
    assert report_of(tmp_path, places[4].name) == b"<p>report</p>"
    assert report_of(tmp_path, places[0].name) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"points": 1}', b"\xff", b"[" * 100_000])
def test_a_broken_run_is_said_and_hides_no_other(tmp_path: Path, content: bytes) -> None:
    broken, whole = _keep(tmp_path, 1), _keep(tmp_path, 2)
    (broken / "summary.json").write_bytes(content)
    first, second = kept(tmp_path)
    assert (first.id, first.summary) == (whole.name, SUMMARY)
    assert (second.id, second.summary) == (broken.name, None)
    assert second.reason


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / ".20261124T130100-abcdef").mkdir()  # of a process that was killed
    (tmp_path / "20261124T130100-abcdef.txt").write_text("")
    assert kept(tmp_path) == []
    assert kept(tmp_path / "no" / "such") == []


def test_a_folder_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be kept"):
        _keep(tmp_path / "file" / "benchmarks")
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)


@given(st.text(max_size=60) | st.sampled_from(["..", "../x", "/etc/passwd", "20261124T130100-abcdef/../..", "%2e%2e"]))
def test_no_text_leads_out_of_the_folder(text: str) -> None:
    assert report_of(Path("/"), text) is None
