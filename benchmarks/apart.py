"""A benchmark lives apart from whoever runs it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["apart"]


@contextmanager
def apart() -> Iterator[None]:
    """For the whole of a process, and what it starts: state lies in a folder of this run, and no setting of this
    machine counts. So nothing is learned from earlier runs, and nothing written into the state of the user.
    """
    for name in [name for name in os.environ if name.startswith("ROUNDHOUSE_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="roundhouse-bench-", ignore_cleanup_errors=True) as folder:
        os.environ["XDG_STATE_HOME"] = folder
        yield
