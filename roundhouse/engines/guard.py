"""Runs a foreign server so that it dies with us: `python -I -S guard.py COMMAND...`.

A foreign program knows nothing of our lifeline. This small process between does: it starts the program in its own
process group, waits for it, and kills the whole group when its standard input ends, or when it is told to stop.
It leaves with the program's own exit status, or by the same signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Run `argv`; the exit status is the program's, 127 if it cannot be started."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_guard() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        # No thread runs yet, so code between fork and exec is safe.
        child = subprocess.Popen(  # noqa: S603
            argv,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_guard,
        )
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror or error}", file=sys.stderr, flush=True)  # noqa: T201
        return 127

    def tell_group(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        tell_group(signal.SIGKILL)

    signal.signal(signal.SIGTERM, lambda *_: tell_group(signal.SIGTERM))
    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
