"""Ray's own test cluster: three nodes on this machine, in which the whole service runs. Needs `make test-ray`."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from roundhouse.config import Settings, load
from roundhouse.gateway.build import provider_types
from tests.cluster.processes import MARK, end, members

SLEEPER = Path(__file__).parents[2] / "benchmarks" / "sleeper.py"
CONFIG = """
llm:
  providers:
    - {{type: llamacpp, model: demo, name: demo, n_threads: 1, replicas: {{min: 2, max: 2}}}}
    - {{type: llamacpp, model: demo, name: other, n_threads: 1, n_ctx: 1024}}
    - {{type: llamacpp, model: missing.gguf, name: broken, n_threads: 1}}
    - {{type: llamacpp, model: demo, name: asleep, n_threads: 1, replicas: {{min: 0, max: 1}}, ttl: 2}}
    - {{type: vllm, model: words, name: slow, executable: "{sleeper}", max_num_seqs: 4, replicas: {{min: 2, max: 2}},
       env: {{SLEEPER_PIECE_S: "0.05", SLEEPER_PIECES: "60", SLEEPER_LOG: "{log}"}}}}
routes: {{default: [demo], switched: [demo], words: [slow], seldom: [asleep]}}
limits: {{load: 60}}
server: {{port: {port}}}
"""
READY_S = 60.0


@dataclass
class Outcome:
    """What a client saw: `text` up to where it came, `finished`: with a finish reason; `error`: it was told, or cut."""

    text: str = ""
    finished: bool = False
    error: str = ""
    seams: list[Any] = field(default_factory=list)

    @property
    def silent(self) -> bool:
        """Neither whole nor an error: what must never be."""
        return not self.finished and not self.error


class Client:
    """Speaks to the service as any client would. No request may take longer than `limit_s`: that would be a hang."""

    def __init__(self, url: str, http: aiohttp.ClientSession, limit_s: float = 60.0) -> None:
        self.url = url
        self.http = http
        self._limit = aiohttp.ClientTimeout(total=limit_s)

    async def ask(self, model: str, text: str = "Hello", **more: Any) -> Outcome:
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}], **more}
        outcome = Outcome()
        try:
            async with self.http.post(f"{self.url}/v1/chat/completions", json=body, timeout=self._limit) as response:
                if response.status != 200:
                    outcome.error = f"{response.status} {await response.text()}"
                    return outcome
                async for line in response.content:
                    self._read(line, outcome)
        except TimeoutError:
            raise
        except aiohttp.ClientError as error:
            outcome.error = f"{type(error).__name__}: {error}"
        return outcome

    def _read(self, line: bytes, outcome: Outcome) -> None:
        if not line.startswith(b"data: {"):
            return
        told = json.loads(line[6:])
        if "error" in told:
            outcome.error = str(told["error"])
        for choice in told.get("choices", ()):
            outcome.text += choice["delta"].get("content") or ""
            outcome.finished = outcome.finished or choice["finish_reason"] is not None
        outcome.seams += told.get("roundhouse", {}).get("seams", ())

    async def load(self, model: str, outcomes: list[Outcome], ended: asyncio.Event) -> None:
        """Ask one question after the other until it has `ended`."""
        number = 0
        while not ended.is_set():
            number += 1
            outcomes.append(await self.ask(model, f"Question {number}", max_tokens=8))

    async def state(self) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/admin/state", timeout=self._limit) as response:
            assert response.status == 200, await response.text()
            return dict(await response.json())

    async def row(self, target: str) -> dict[str, Any]:
        return next(one for one in (await self.state())["replicas"] if one["target"] == target)

    async def order(self, what: str, **body: Any) -> tuple[int, dict[str, Any]]:
        limit = aiohttp.ClientTimeout(total=READY_S)
        async with self.http.post(f"{self.url}/admin/{what}", json=body, timeout=limit) as response:
            return response.status, await response.json()

    async def until(self, holds: Callable[[], Any], limit_s: float = READY_S) -> None:
        """Wait for what the service tells of itself; there is no event to wait for from outside."""
        try:
            async with asyncio.timeout(limit_s):
                while not await holds():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"it never came to be so: {await self.state()}") from None


@dataclass
class Running:
    """The cluster and the service in it, by the file `config`. `log`: what the engines that sleep write of their
    answers. `mark`: what all processes of it have in their environment.
    """

    cluster: Any
    url: str
    log: Path
    config: Path
    mark: str

    def settings(self) -> Settings:
        """What the file says now."""
        return load(self.config, environ={}, cwd=self.config.parent, types=provider_types())

    def node_of(self, engine: str) -> Any:
        """A node beside the head that runs a child with `engine` in its command line."""
        return next(node for node in self.cluster.worker_nodes if _runs(node, engine))

    def processes(self, what: str) -> list[psutil.Process]:
        """Those of this cluster that have `what` in their command line."""
        return [one for one in members(self.mark) if what in _words(one)]

    def answering(self) -> list[int]:
        """The processes of the engines that sleep, by the answers that they began."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith("begin")]

    def noted(self, what: str) -> int:
        return sum(line.startswith(what) for line in self.log.read_text().splitlines()) if self.log.exists() else 0


def _runs(node: Any, engine: str) -> bool:
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any(engine in _words(process) for process in raylet.children(recursive=True))


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """Every process of it is gone afterwards, whatever happens."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed here; run make test-ray")
    import ray

    from roundhouse.cluster.start import connect, start

    home = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))  # sockets have short names only
    mark = secrets.token_hex(8)
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        MARK: mark,
    }
    kept = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    node = {"num_cpus": 4, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = None
    service = None
    try:
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
        for _ in range(2):
            cluster.add_node(**node)
        config = home / "c.yaml"
        config.write_text(CONFIG.format(sleeper=SLEEPER, log=home / "log", port=free_port()))
        found = Running(cluster, "", home / "log", config, mark)
        connect(cluster.address)
        service = start(found.settings(), proxies="HeadOnly")
        found.url = service.url
        yield found
    finally:
        with warnings.catch_warnings():  # it ends within whichever test is the last, with that one's filters
            warnings.simplefilter("ignore")
            if service is not None:
                service.stop(5.0)
            ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
        end(mark)
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def client(running: Running) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        found = Client(running.url, http)

        async def up() -> bool:
            rows = {row["target"]: row for row in (await found.state())["replicas"]}
            for row in rows.values():
                if row["notes"]:
                    print(row["target"], row["notes"])
            return all(rows[name]["nodes"].get("running") == 2 for name in ("demo", "slow"))

        await found.until(up)
        yield found
