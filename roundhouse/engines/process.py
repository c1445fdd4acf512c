"""One child process: start it, know when it is ready or gone, keep the end of its log, stop it whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from roundhouse.core.errors import Died, EngineError, LaunchFailed, MissingExtra, NotHealthy
from roundhouse.engines import guard, priority
from roundhouse.engines.launch import Spawn

__all__ = ["Child", "Ready"]

_LOG_LINES = 200
_LINE_BYTES = 2000
_POLL_S = 0.1
_EXIT_GRACE_S = 2.0
_TAIL_LINES = 30


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a child answers. `facts` are what it said of itself."""

    url: str
    key: str = field(default="", repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Child:
    """A running child. Made by `start`; `exited` completes with its exit status the moment it is gone."""

    def __init__(self, target: str, process: Process) -> None:
        self._target = target
        self._process = process
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._importing: asyncio.Task[bytes] | None = None
        self._reading = asyncio.create_task(self._read_log(), name=f"log of {target}")
        self.exited: asyncio.Task[int] = asyncio.create_task(process.wait(), name=f"exit of {target}")

    @classmethod
    async def spawned(cls, target: str, spawn: Spawn) -> Child:
        """A worker of ours that was told nothing yet. Raises `LaunchFailed`."""
        return cls(target, await _spawn(target, spawn, "", 0))

    @classmethod
    async def start(
        cls,
        target: str,
        spawn: Spawn,
        load_limit_s: float,
        spare: Child | None = None,
        *,
        standing_back: bool = False,
    ) -> tuple[Child, Ready]:
        """Start `spawn`, or tell it to a `spare` worker, and wait until it is ready.

        `standing_back`: until then it gives way to processes that are busy.

        Raises `LaunchFailed`, `NotHealthy` past `load_limit_s`, `Died`, or `MissingExtra`, each with the log's end. A
        cancelled or failed start leaves no process behind.
        """
        key = secrets.token_urlsafe(24)
        port = 0 if spawn.settings is not None else _free_port()
        child = spare or cls(target, await _spawn(target, spawn, key, port))
        child._target = target
        try:
            async with asyncio.timeout(load_limit_s), priority.standing_back(child.pid, standing_back):
                if spawn.settings is not None:
                    return child, await child._greet(spawn, key)
                return child, await child._poll(spawn, key, port)
        except TimeoutError:
            await child.stop(grace_s=0)
            raise NotHealthy(
                f'target "{target}" was not ready after {load_limit_s:g} s, the load limit; its log ends: '
                f"{child._last_line()}",
                target=target,
                log_tail=child.log_tail,
                limit_s=load_limit_s,
            ) from None
        except BaseException:
            await asyncio.shield(child.stop(grace_s=0))
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last lines it wrote, newest last."""
        return tuple(self._log)

    def death(self) -> Died | None:
        """Why it is gone; None while it runs."""
        if self._process.returncode is None:
            return None
        status = self._process.returncode
        return Died(
            f'the engine of target "{self._target}" {_how(status)}; its log ends: {self._last_line()}',
            target=self._target,
            log_tail=self.log_tail,
            exit_status=status,
        )

    async def imported(self) -> None:
        """Wait until a worker of ours has what every model needs, or is gone."""
        if self._importing is None:
            assert self._process.stdout is not None
            self._importing = asyncio.create_task(self._process.stdout.readline(), name=f"imports of {self._target}")
        await asyncio.shield(self._importing)

    async def stop(self, grace_s: float = 5.0) -> None:
        """End it and all its descendants: ask, wait up to `grace_s`, then kill. Safe to call twice."""
        descendants = _descendants(self.pid)
        if grace_s > 0 and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait((self.exited,), timeout=grace_s)
        if self._process.stdin is not None:
            self._process.stdin.close()  # the lifeline: a worker leaves at once, a guard kills its program first
        await asyncio.wait((self.exited,), timeout=_EXIT_GRACE_S)
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self.exited
        await asyncio.wait((self._reading,), timeout=_EXIT_GRACE_S)
        self._reading.cancel()
        if self._importing is not None:
            self._importing.cancel()

    async def _greet(self, spawn: Spawn, key: str) -> Ready:
        """Tell a worker its settings; its one line says that it is ready, or why not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert spawn.settings is not None
        settings = {**spawn.settings, "key": key, "parent": os.getpid()}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(json.dumps(settings).encode() + b"\n")
            await self._process.stdin.drain()
        await self.imported()
        line = await self._process.stdout.readline()
        if not line:
            await self.exited
            await asyncio.wait((self._reading,), timeout=_EXIT_GRACE_S)
            raise self.death() or EngineError("unreachable: an exited process has a status")
        told = json.loads(line)
        if told["event"] == "ready":
            return Ready(told.pop("url"), key, told)
        await asyncio.wait((self._reading,), timeout=_POLL_S)
        raise self._failure(told)

    async def _poll(self, spawn: Spawn, key: str, port: int) -> Ready:
        """Ask a foreign server's health until it says yes, or is gone."""
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            while not self.exited.done():
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url + spawn.health_path, timeout=aiohttp.ClientTimeout(2)) as response:
                        if response.status == 200:
                            return Ready(url, key)
                await asyncio.wait((self.exited,), timeout=_POLL_S)
        await asyncio.wait((self._reading,), timeout=_EXIT_GRACE_S)
        if self.exited.result() == 127:
            raise LaunchFailed(
                f'target "{self._target}": {self._last_line()}', target=self._target, log_tail=self.log_tail
            )
        raise self.death() or EngineError("unreachable: an exited process has a status")

    def _failure(self, told: Mapping[str, Any]) -> Exception:
        if told["kind"] == "missing":
            extra = told["extra"]
            return MissingExtra(
                f'target "{self._target}" needs {told["reason"].split(" ")[0]}: pip install "roundhouse[{extra}]"',
                extra=extra,
            )
        reason = told["reason"]
        if told["kind"] == "load":
            reason = _reason_in(self._log) or reason
        return LaunchFailed(
            f'target "{self._target}" could not be started: {reason}', target=self._target, log_tail=self.log_tail
        )

    def _last_line(self) -> str:
        """The last line that speaks of an error, for what follows it is often advice; else the last of all."""
        said = [line for line in self._log if line.strip()]
        return next(
            (line for line in said[:-_TAIL_LINES:-1] if "error" in line.lower()), said[-1] if said else "(empty)"
        )

    async def _read_log(self) -> None:
        """Drain the log for ever, so that the child never blocks on a full pipe; keep the end."""
        stream = self._process.stderr or self._process.stdout  # a foreign server's two are one
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line longer than the reader's limit; what came of it is dropped
                continue
            if not line:
                return
            self._log.append(line[:_LINE_BYTES].decode("utf-8", "replace").rstrip())


async def _spawn(target: str, spawn: Spawn, key: str, port: int) -> Process:
    environment = {**os.environ, **spawn.env}
    argv = list(spawn.argv)
    if spawn.settings is None:
        argv = [argument.replace("{port}", str(port)) for argument in argv]
        argv = [sys.executable, "-I", "-S", str(Path(guard.__file__)), *argv]
        if spawn.key_variable:
            environment[spawn.key_variable] = key
    pipe = asyncio.subprocess.PIPE
    errors = pipe if spawn.settings is not None else asyncio.subprocess.STDOUT
    try:
        # A session of its own: an interrupt typed at the terminal is for the parent, which drains before it stops us.
        return await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, stderr=errors, env=environment, start_new_session=True, limit=1 << 20
        )
    except OSError as error:
        raise LaunchFailed(
            f'target "{target}": cannot start {argv[0]}: {error.strerror or error}', target=target
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _how(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended by itself with exit status {status}"
    match -status:
        case signal.SIGILL:
            return "stopped at an instruction that this processor lacks (llama.cpp's wheel needs AVX2, FMA and F16C)"
        case signal.SIGKILL:
            return "was killed (SIGKILL), by someone or by the kernel for want of memory"
        case number:
            return f"was ended by {signal.Signals(number).name}"


def _reason_in(log: deque[str]) -> str:
    """llama.cpp says why a load failed on its log alone: the first line that speaks of an error."""
    for line in log:
        lowered = line.lower()
        if "error" in lowered or "failed" in lowered or "unable" in lowered:
            return line.split(": ", 1)[-1].strip()
    return ""
