"""The end of a test's cluster is nobody else's: two checkouts may be tested on one machine at once."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.processes import MARK, end, members

_PARENT = """
import subprocess, sys
command = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()", *sys.argv[1:]]
subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).wait()
"""


@contextmanager
def _engine(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """By its command line an engine of ours with a child in a session of its own, both of which run by now."""
    command = [sys.executable, "-c", _PARENT, "roundhouse.engines.llamacpp_worker", "ray::engine", "/ray/"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment})
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_only_what_bears_the_mark_is_ended_with_its_children() -> None:
    ours, others = secrets.token_hex(8), secrets.token_hex(8)
    with (
        _engine() as bystander,
        _engine(**{MARK: others}) as other,
        _engine(**{MARK: ours}),
    ):
        try:
            assert len(members(ours)) == 2
            end(ours)
            assert members(ours) == []
            assert bystander.poll() is None
            assert other.poll() is None
            assert len(members(others)) == 2
        finally:
            end(others)
