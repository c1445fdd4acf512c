"""A real PostgreSQL for tests, where this machine has its programs: one for each process of pytest, in a folder of its
own, as a user of its own, for it refuses to run as root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import psycopg

__all__ = ["Postgres", "missing", "postgres_server"]

PASSWORD = "a p@ss/word: it has everything%41"
_USER = "postgres"
_LIMIT_S = 30.0
_NUMBERS = count()


def _programs() -> Path | None:
    """The folder of the newest `initdb`."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    return debian[-1].parent if debian else None


def missing() -> str:
    """Why there is no PostgreSQL here; empty = there is one."""
    if find_spec("psycopg") is None:
        return "psycopg is not in this environment"
    if _programs() is None:
        return "no PostgreSQL on this machine: `make test-postgres` installs Debian's"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_USER)
        except KeyError:
            return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


@dataclass(slots=True)
class Postgres:
    """`pid` is the postmaster's, which is no child of this process; 0 = it is down."""

    folder: Path
    port: int
    pid: int = 0

    def url(self, database: str) -> str:
        """Without the password."""
        return f"postgresql://roundhouse@127.0.0.1:{self.port}/{database}"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{os.getpid()}_{next(_NUMBERS)}"
        with self.connect() as db:
            db.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        import psycopg

        return psycopg.connect(self.url(database), password=PASSWORD, autocommit=True, connect_timeout=5)

    def start(self) -> None:
        """Returns when it answers."""
        deadline = time.monotonic() + _LIMIT_S
        while _ran(
            "pg_ctl", "start", "-w", "-D", self.folder / "data", "-l", self.folder / "log", "-o", f"-p {self.port}"
        ):
            # One that was killed leaves children, which hold its memory until they have noticed.
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)
        self.pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast; SIGQUIT: immediate; SIGKILL: as by a crash."""
        pid, self.pid = self.pid, 0
        if pid:
            process = psutil.Process(pid)
            process.send_signal(how)
            process.wait(_LIMIT_S)

    def freeze(self, yes: bool) -> None:
        """Stop all its processes where they are, or have them go on."""
        postmaster = psutil.Process(self.pid)
        for one in [postmaster, *postmaster.children()]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGSTOP if yes else signal.SIGCONT)


def _ran(program: str, *arguments: object) -> int:
    """Its exit code. As another user than root."""
    programs = _programs()
    assert programs is not None
    command = [str(programs / program), *map(str, arguments)]
    who = {} if os.geteuid() else {"user": _USER, "group": _USER, "extra_groups": []}
    return subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who).returncode  # type: ignore[call-overload]


def _end_with_us(folder: Path) -> None:
    """A process that is killed stops nothing: somebody else, who is no child of it, looks whether it is there."""
    thaws = "for one in $it $(pgrep -P $it); do kill -CONT $one; done"
    ends = f"it=$(head -n 1 {folder}/data/postmaster.pid); {thaws}; kill -QUIT $it; sleep 2; rm -rf {folder}"
    looks = f"(while kill -0 {os.getpid()} && test -d {folder}; do sleep 1; done; {ends}) >/dev/null 2>&1 &"
    subprocess.run(["sh", "-c", looks], check=True, stdin=subprocess.DEVNULL, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="roundhouse-postgres-"))
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            account = pwd.getpwnam(_USER)
            for one in (folder, secret):
                os.chown(one, account.pw_uid, account.pw_gid)
        options = ("-U", "roundhouse", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        assert _ran("initdb", "-D", folder / "data", "--pwfile", secret, *options) == 0
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\nfsync = off\n"
                "max_connections = 200\nshared_buffers = 64MB\nmax_wal_size = 256MB\n"
            )
        server = Postgres(folder, _free_port())
        try:
            _end_with_us(folder)
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
