"""A child of ours must not outlive its parent, however the parent ends. Runs in the child; standard library only.

The parent holds the other end of the child's standard input and never closes it: end of file there means that the
parent is gone, on every system and even after SIGKILL. On Linux the kernel is asked as well to kill the child at
once, which works even if no thread of the child can run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import BinaryIO

__all__ = ["hold"]

_PR_SET_PDEATHSIG = 1


def hold(standard_input: BinaryIO, *, parent: int) -> None:
    """Leave at once when `standard_input` ends. `parent` is the process that should be our parent still."""
    threading.Thread(target=_leave_at_end, args=(standard_input,), name="lifeline", daemon=True).start()
    if sys.platform == "linux" and os.getppid() == parent:
        # The signal comes when the *thread* that forked us ends, so it must be one that lasts: the event loop's.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _leave_at_end(standard_input: BinaryIO) -> None:
    while standard_input.read(4096):
        pass
    os._exit(0)
