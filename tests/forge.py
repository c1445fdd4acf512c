"""The `roundhouse` command as a process of its own, which begins where its imports are done.

A start of Python with all of Roundhouse takes most of a second, and the tests start hundreds. One process imports it
and forks for each command: what comes has pid, pipes, environment, folder and exit status of its own, after 20 ms.
What happens before the imports, as a limit of the shell or a variable that Python reads, needs a real start.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

__all__ = ["Command", "run"]

_ROOT = Path(__file__).parents[1]
_ORDER_BYTES = 1 << 18


class Command:
    """`roundhouse ARGUMENTS`, started. Its face is that of `subprocess.Popen` with pipes of text.

    As there: `returncode` is None until it was waited for, and negative after a signal. Bytes that are no UTF-8 are
    surrogates, in both directions.
    """

    def __init__(
        self, *arguments: str, env: Mapping[str, str] | None = None, cwd: str | os.PathLike[str] | None = None
    ) -> None:
        self.args = ["roundhouse", *arguments]
        self.returncode: int | None = None
        theirs, ours = zip(os.pipe(), *(reversed(os.pipe()) for _ in range(3)), strict=True)
        order = {
            "arguments": arguments,
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or os.getcwd()),
        }
        try:
            _forge().order(order, theirs)
        finally:
            for one in theirs:
                os.close(one)
        pipes = (
            os.fdopen(one, how, errors="surrogateescape", newline="") for one, how in zip(ours, "wrrr", strict=True)
        )
        self.stdin, self.stdout, self.stderr, self._told = pipes
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(self._told.readline())
        return self.returncode

    def communicate(self, input: str = "", timeout: float | None = None) -> tuple[str, str]:
        """Everything that it writes, once it has ended."""
        texts = ["", ""]

        def read(place: int, pipe: IO[str]) -> None:
            texts[place] = pipe.read()

        reading = [threading.Thread(target=read, args=one) for one in enumerate((self.stdout, self.stderr))]
        for thread in reading:
            thread.start()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.write(input)
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for thread in reading:
                thread.join()
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()
        self.close()

    def close(self) -> None:
        """Close the pipes."""
        for pipe in (self.stdin, self.stdout, self.stderr, self._told):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def run(
    *arguments: str,
    input: str = "",
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 60,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """What came of `roundhouse ARGUMENTS`, as `subprocess.run` tells it."""
    command = Command(*arguments, env=env, cwd=cwd)
    try:
        out, err = command.communicate(input, timeout)
    finally:
        command.close()
    ended = subprocess.CompletedProcess(command.args, command.wait(), out, err)
    if check:
        ended.check_returncode()
    return ended


class _Forge:
    """The process that forks, seen from the tests. It ends when its door closes, at the latest with us."""

    def __init__(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.forge", str(theirs.fileno())]
            environ = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDHOUSE_")}
            subprocess.run(command, pass_fds=[theirs.fileno()], cwd=_ROOT, env=environ, check=True)
        self._one_at_a_time = threading.Lock()
        atexit.register(self.close)

    def order(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        with self._one_at_a_time:
            socket.send_fds(self._door, [json.dumps(order).encode()], descriptors)

    def close(self) -> None:
        self._door.close()


@functools.cache
def _forge() -> _Forge:
    return _Forge()


def _main(door: socket.socket) -> None:
    """Wait for orders. Only a process that is to be a command returns from `_forked`."""
    import roundhouse.cli.main
    import roundhouse.server.app  # noqa: F401 - there when a command asks for it

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who watch
    while (arguments := _forked(door)) is None:
        pass
    sys.argv = [str(_ROOT / "roundhouse" / "__main__.py"), *arguments]
    runpy.run_module("roundhouse", run_name="__main__", alter_sys=True)


def _forked(door: socket.socket) -> list[str] | None:
    """One order: its arguments in the process that is to carry it out, None in the one that goes on waiting."""
    data, descriptors, _, _ = socket.recv_fds(door, _ORDER_BYTES, 4)
    if not data:
        sys.exit()
    if os.fork():
        for one in descriptors:
            os.close(one)
        return None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, told = descriptors
    if child := os.fork():
        _watch(child, told, [door.detach(), *streams])
    door.close()
    os.close(told)
    order = json.loads(data)
    for number, one in enumerate(streams):
        os.dup2(one, number)
        os.close(one)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.path[0] = order["cwd"]
    return list(order["arguments"])


def _watch(child: int, told: int, others: Sequence[int]) -> None:
    """Tell the pid, and in the end how it ended, as `subprocess` counts it."""
    for one in (0, 1, 2, *others):
        os.close(one)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # of the terminal; it ends when the command does
        signal.signal(number, signal.SIG_IGN)
    os.write(told, b"%d\n" % child)
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # told before its pid is free: nobody signals another
    assert ended is not None
    with contextlib.suppress(BrokenPipeError):
        os.write(told, b"%d\n" % (ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
    os.waitpid(child, 0)
    os._exit(0)


if __name__ == "__main__":
    if os.fork():  # so that it is no child of the tests, some of which count theirs
        os._exit(0)
    _main(socket.socket(fileno=int(sys.argv[1])))
