"""A file is whole at every moment; what killed processes leave beside it goes, and what living ones write stays."""

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from roundhouse.core.files import making_folder, replacing, write_atomically

MINUTES, HOURS = 120, 7200


@contextmanager
def _child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has said something, and waits for a line before it goes on."""
    before = """
        import os, sys
        from pathlib import Path
        from roundhouse.core import files
        def wait(*_):
            print("here", flush=True)
            sys.stdin.readline()
    """
    command = [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(code), *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def _writer(path: Path, wait_in: str = "fsync") -> Iterator[subprocess.Popen[str]]:
    """One that stands before the end of its writing, or where nothing is written yet."""
    code = f"""
        os.{wait_in}, real = lambda *given: (wait(), real(*given))[1], os.{wait_in}
        files.write_atomically(Path(sys.argv[1]), b"its own")
    """
    with _child(code, path) as child:
        yield child


def _beside(path: Path) -> list[Path]:
    return sorted(one for one in path.parent.iterdir() if one != path)


def _age(path: Path, seconds: float) -> Path:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize(("wait_in", "size"), [("fsync", 7), ("dup", 0)], ids=["written", "empty"])
def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path, wait_in: str, size: int) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"old")
    with _writer(path, wait_in) as child:
        child.kill()
        child.wait()
    assert path.read_bytes() == b"old"
    (left,) = _beside(path)
    assert left.stat().st_size == size
    write_atomically(path, b"new")
    assert _beside(path) == [left]  # it may be of another machine, whose locks are not seen here
    _age(left, MINUTES)
    write_atomically(path, b"newer")
    assert (path.read_bytes(), _beside(path)) == (b"newer", [])


def test_what_a_living_process_writes_is_left_to_it_however_long_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with _writer(path) as child:
        (fresh,) = _beside(path)
        _age(fresh, HOURS)
        write_atomically(path, b"mine")
        assert _beside(path) == [fresh]
        child.communicate("go on\n")
        assert child.returncode == 0
    assert (path.read_bytes(), _beside(path)) == (b"its own", [])


def test_where_there_are_no_locks_it_takes_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    path, left = tmp_path / "x.json", tmp_path / ".x.json.0123abcd"
    left.touch()
    _age(left, MINUTES)
    write_atomically(path, b"new")
    assert _beside(path) == [left]
    _age(left, HOURS)
    write_atomically(path, b"newer")
    assert (path.read_bytes(), _beside(path)) == (b"newer", [])


def test_nothing_of_anybody_else_is_touched(tmp_path: Path) -> None:
    path, precious = tmp_path / "x.json", tmp_path / "precious"
    precious.write_text("all of it")
    (tmp_path / ".x.json.0badcafe").symlink_to(precious)
    (tmp_path / ".x.json.0badf00d").mkdir()
    (tmp_path / ".x.json.0badf00d" / "file").touch()
    os.mkfifo(tmp_path / ".x.json.0badbeef")
    for name in (".x.json.backup12", ".x.json.0123abc", ".x.json.0123abcd.bak", ".y.json.0123abcd", ".xAjson.0123abcd"):
        (tmp_path / name).touch()
    for one in tmp_path.iterdir():
        if not one.is_symlink():
            _age(one, HOURS)
    before = _beside(path)
    write_atomically(path, b"new")
    assert _beside(path) == before
    assert (tmp_path / ".x.json.0badf00d" / "file").exists()
    assert precious.read_text() == "all of it"


def test_a_disk_without_room_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"old")
    code = """
        import resource, sys
        from pathlib import Path
        from roundhouse.core.files import write_atomically
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # what it writes beyond that is refused by the kernel
        try:
            write_atomically(Path(sys.argv[1]), b"x" * 5000)
        except OSError as error:
            print(error.errno)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == (f"{errno.EFBIG}\n", "")
    assert (path.read_bytes(), _beside(path)) == (b"old", [])


def test_who_breaks_off_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), making_folder(tmp_path / "folder") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert (path.read_bytes(), _beside(path)) == (b"old", [])


def test_rights_are_those_that_were_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "open", b"")
        write_atomically(tmp_path / "own", b"", 0o600)
        with making_folder(tmp_path / "folder", 0o700):
            pass
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"open": 0o640, "own": 0o600, "folder": 0o700}


def test_a_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    code = """
        with files.making_folder(Path(sys.argv[1])) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("x")
            wait()
    """
    with _child(code, tmp_path / "dead") as dead, _child(code, tmp_path / "alive") as alive:
        for left in tmp_path.iterdir():
            _age(left, HOURS)
        dead.kill()
        dead.wait()
        with making_folder(tmp_path / "ours") as ours:
            (ours / "file").touch()
        assert len(list(tmp_path.iterdir())) == 2
        alive.communicate("go on\n")
        assert alive.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "alive"}
    assert (tmp_path / "alive" / "deep" / "file").read_text() == "x"


def test_a_place_that_is_taken_is_left_as_it_is(tmp_path: Path) -> None:
    with making_folder(tmp_path / "place") as first:
        (first / "first").touch()
    with pytest.raises(OSError, match="not empty"), making_folder(tmp_path / "place") as second:
        (second / "second").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "first"]


def test_many_processes_that_write_one_file_leave_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    code = """
        import sys
        from pathlib import Path
        from roundhouse.core.files import write_atomically
        for turn in range(100):
            write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 50_000)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "abc"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen = path.read_bytes()
            assert seen == seen[:1] * 50_000
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert _beside(path) == []
