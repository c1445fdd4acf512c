"""Whatever becomes of the disk or of the process, requests go on, and the history is whole."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roundhouse.history import recorder as recording
from roundhouse.history.recorder import Policy, Recorder
from roundhouse.history.store import Writer, row_of
from tests.history.events import ended

MOST = 1 << 30
MONTH_S = 30 * 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.sqlite"


@pytest.fixture
def recorder(path: Path) -> Iterator[Recorder]:
    found = Recorder(Policy(path, MONTH_S, MOST))
    yield found
    found.close()


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT request_id FROM requests ORDER BY id")]


def test_a_request_is_there_with_its_numbers_and_nobody_else_may_read_them(path: Path, recorder: Recorder) -> None:
    recorder.record(ended(request_id="a", prompt="rag@1", variant="mistral", failed=(("two", "timed_out"),), seams=1))
    recorder.flush()
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        row = dict(db.execute("SELECT * FROM requests").fetchone())
    assert (row["prompt"], row["variant"], row["failed_attempts"], row["seams"]) == ("rag@1", "mistral", 1, 1)
    assert (row["total_s"], row["first_token_s"], row["output_tokens"]) == (1.0, 0.25, 6)
    assert path.stat().st_mode & 0o077 == 0


def test_what_waits_is_written_at_the_end(path: Path) -> None:
    recorder = Recorder(Policy(path, MONTH_S, MOST))
    for number in range(1000):
        recorder.record(ended(request_id=str(number)))
    recorder.close()
    assert ids(path) == [str(number) for number in range(1000)]


def test_a_killed_process_loses_at_most_what_was_not_yet_written(path: Path) -> None:
    code = f"""
from pathlib import Path
from roundhouse.history.recorder import Policy, Recorder
from tests.history.events import ended
recorder = Recorder(Policy(Path({str(path)!r}), 1e6, 1 << 30))
recorder.record(ended(request_id="written"))
recorder.flush()
print("flushed", flush=True)
while True:
    recorder.record(ended(request_id="on its way"))
    recorder.flush()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"flushed\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert ids(path)[0] == "written"
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_several_processes_write_one_file(path: Path) -> None:
    code = f"""
from pathlib import Path
from roundhouse.history.recorder import Policy, Recorder
from tests.history.events import ended
recorder = Recorder(Policy(Path({str(path)!r}), 1e6, 1 << 30))
for number in range(200):
    recorder.record(ended(request_id=str(number)))
    recorder.flush()
recorder.close()
"""
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert len(ids(path)) == 600


def test_a_locked_file_loses_nothing(path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roundhouse.history.store._LIMIT_S", 0.05)
    Writer(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        recorder.record(ended(request_id="waits"))
        recorder.flush()
        other.execute("ROLLBACK")
    recorder.flush()
    assert ids(path) == ["waits"]
    assert recorder.lost == 0


def test_a_full_disk_costs_bounded_memory_and_is_said_once(
    path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite itself refuses to let its file grow, as it does when the disk is full."""
    monkeypatch.setattr(recording, "_MOST_WAITING", 3)
    recorder.record(ended(request_id="before"))
    recorder.flush()
    assert recorder._writer is not None
    pages = recorder._writer._db.query("PRAGMA page_count")[0][0]
    recorder._writer._db.query(f"PRAGMA max_page_count={pages}")
    for number in range(5):
        recorder.record(ended(request_id=f"{number}" * 3000))
    recorder.flush()
    recorder.flush()
    assert recorder.lost == 2
    assert len([line for line in caplog.messages if "disk is full" in line]) <= 1
    recorder.flush()  # by a new connection, on which the limit does not lie
    assert len(ids(path)) == 4
    assert "written again (2 requests were lost)" in caplog.text


@pytest.mark.parametrize("damage", [b"this is no database, but long enough to look like a file of one" * 100, b""])
def test_a_damaged_file_is_set_aside_and_kept(path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    recorder = Recorder(Policy(path, MONTH_S, MOST))
    recorder.record(ended(request_id="a"))
    recorder.close()
    assert ids(path) == ["a"]
    aside = [one for one in path.parent.iterdir() if ".damaged-" in one.name]
    assert [one.read_bytes() for one in aside] == ([damage] if damage else [])
    assert bool(aside) == ("renamed" in caplog.text)


def test_a_file_that_is_damaged_while_in_use_is_set_aside(path: Path, recorder: Recorder) -> None:
    for number in range(300):
        recorder.record(ended(request_id=str(number)))
    recorder.flush()
    recorder._leave()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    recorder.record(ended(request_id="after"))
    recorder.flush()
    assert ids(path) == ["after"]


def test_a_removed_file_is_begun_anew(path: Path, recorder: Recorder) -> None:
    recorder.record(ended(request_id="a"))
    recorder.flush()
    for one in path.parent.iterdir():
        one.unlink()
    recorder.record(ended(request_id="b"))
    recorder.flush()
    assert ids(path) == ["b"]


def test_a_newer_schema_is_left_as_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Writer(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    recorder = Recorder(Policy(path, MONTH_S, MOST))
    recorder.record(ended())
    recorder.close()
    assert ids(path) == []
    assert recorder.lost == 1
    assert "newer Roundhouse" in caplog.text


def test_an_unusable_place_disturbs_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(Policy(tmp_path / "file" / "history.sqlite", MONTH_S, MOST))
    recorder.record(ended())
    recorder.close()
    assert "cannot be opened" in caplog.text


def test_another_file_or_none_by_a_new_policy(path: Path, recorder: Recorder) -> None:
    recorder.record(ended(request_id="a"))
    recorder.flush()
    recorder.policy = None
    recorder.record(ended(request_id="unkept"))
    recorder.flush()
    recorder.policy = Policy(path.with_name("other.sqlite"), MONTH_S, MOST)
    recorder.record(ended(request_id="b"))
    recorder.flush()
    assert ids(path) == ["a"]
    assert ids(path.with_name("other.sqlite")) == ["b"]


def test_old_requests_go_and_then_the_oldest_of_a_file_that_is_too_large(path: Path) -> None:
    writer = Writer(path)
    rows = [row_of(ended(request_id=str(number)), float(number)) for number in range(20_000)]
    writer.write(rows)
    assert writer.retain(5000.0, MOST) == 5000
    assert ids(path)[0] == "5000"  # and what was removed has left the file
    before = path.stat().st_size
    writer.retain(0.0, before // 4)
    writer.close()
    left = ids(path)
    assert 1000 < len(left) < 10_000
    assert left[-1] == "19999"
    assert path.stat().st_size < before // 2
