"""Servers in processes of their own, as on several machines, over one PostgreSQL: they share what they should, and its
death is noticed by nobody who asks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from roundhouse.database import Address
from roundhouse.experiments.store import Store
from roundhouse.history.question import Question
from roundhouse.history.statistics import statistics
from tests.fakes.http import fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.forge import run
from tests.postgres import PASSWORD, Postgres
from tests.server.conftest import Served, serve

pytestmark = pytest.mark.postgres
_LIMIT_S = 40.0


@dataclass
class Cluster:
    """Two servers; `config` is that of the first."""

    servers: list[Served]
    configs: list[Path]
    address: Address
    key: str = ""
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30.0))

    def run(self, *arguments: str, machine: int = 0) -> subprocess.CompletedProcess[str]:
        """A command as its administrator would give it on that machine."""
        environ = {**os.environ, "XDG_STATE_HOME": str(self.configs[machine].parent / "state")}
        if self.key:
            environ["ROUNDHOUSE_KEY"] = self.key
        return run(*arguments, env=environ)

    def ask(self, machine: int, user: str = "ann", key: str = "") -> httpx.Response:
        body = {"model": "default", "messages": [{"role": "user", "content": "q"}], "user": user, "max_tokens": 9}
        headers = {"authorization": f"Bearer {key or self.key}"} if key or self.key else {}
        return self.http.post(f"{self.servers[machine].url}/chat/completions", json=body, headers=headers)

    def tell(self, machine: int, answer: dict[str, Any], value: float) -> httpx.Response:
        body = {"id": answer["id"], "metric": "ok", "value": value}
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return self.http.post(f"{self.servers[machine].url}/feedback", json=body, headers=headers)


def eventually(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not look():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def _config(folder: Path, url: str, backend: str) -> Path:
    folder.mkdir()
    targets = [{"type": "openai", "name": name, "model": f"m-{name}", "endpoint": backend} for name in ("one", "two")]
    path = folder / "c.yaml"
    path.write_text(json.dumps({
        "llm": {"providers": targets, "fallback_order": ["one"]},
        "experiments": {"e": {"route": "default", "arms": {"plain": {}, "cold": {"settings": {"temperature": 0}}},
                              "metric": "ok"}},
        "state": {"url": url, "password": PASSWORD},
    }))  # fmt: skip
    return path


@pytest.fixture
def cluster(postgres: Postgres, tmp_path: Path) -> Iterator[Cluster]:
    url = postgres.fresh()
    with ExitStack() as stack:
        fake = stack.enter_context(in_thread(fake_server(answering)))
        configs = [_config(tmp_path / name, url, fake.url) for name in ("first", "second")]
        servers = [stack.enter_context(serve(config)) for config in configs]
        found = Cluster(servers, configs, Address(url, PASSWORD))
        yield found
        found.http.close()
        postgres.start() if not postgres.pid else None


def _arm(answer: dict[str, Any]) -> str:
    return str(answer.get("roundhouse", {}).get("experiment", {}).get("arm", ""))


def test_keys_limits_routes_and_an_experiment_are_those_of_both_servers(cluster: Cluster) -> None:
    config = ("--config", str(cluster.configs[0]))
    # Keys: made on one machine, asked for on both, and there is none without.
    limited = cluster.run("keys", "create", "ann", "--requests-per-minute", "12", *config).stdout.strip()
    cluster.key = cluster.run("keys", "create", "boss", "--role", "admin", *config).stdout.strip()
    for machine in (0, 1):  # who knows the later key knows the earlier one
        eventually(lambda machine=machine: cluster.ask(machine, key=limited + "x").status_code == 401)
        eventually(lambda machine=machine: cluster.ask(machine).status_code == 200)
    listed = cluster.run("keys", "list", "--json", "--config", str(cluster.configs[1]), machine=1)
    assert sorted(one["name"] for one in json.loads(listed.stdout)) == ["ann", "boss"]

    # A limit: what is used up at one server is used up at the other.
    assert [cluster.ask(0, key=limited).status_code for _ in range(12)] == [200] * 12
    let_in = 0
    while cluster.ask(1, key=limited).status_code == 200:
        let_in += 1
        assert let_in < 12  # which it would have let in by itself
        time.sleep(0.25)  # all of them outlast by far the time after which servers tell each other
    assert cluster.ask(0, key=limited).status_code == 429

    # An experiment: begun by a command, noticed by both; one unit has one arm, whoever serves it.
    assert cluster.run("experiment", "start", "e", *config).returncode == 0
    for machine in (0, 1):
        eventually(lambda machine=machine: _arm(cluster.ask(machine, "warm-up").json()))
    arms: dict[str, set[str]] = {}
    for number in range(30):
        for machine in (0, 1):
            user = f"user-{number}"
            answer = cluster.ask(machine, user).json()
            arms.setdefault(user, set()).add(_arm(answer))
            # To the server that has not answered; on a busy machine the other may take its time to write it down.
            eventually(
                lambda at=1 - machine, to=answer: cluster.tell(at, to, 1.0).json() == {"experiments": ["e"]},
            )
    assert all(len(one) == 1 for one in arms.values())
    assert len(set.union(*arms.values())) == 2

    def units() -> int:
        told = json.loads(cluster.run("experiment", "status", "e", "--json", *config).stdout)
        return sum(told["units"].values())

    eventually(lambda: units() == 31)
    with closing(Store(cluster.address)) as store:
        assert sum(group.m for arm in store.sums("e", "ok").values() for group in arm.values()) == 60

    # A route: switched at one server, and the other follows.
    root = cluster.servers[0].url.removesuffix("/v1")
    switched = cluster.run("switch", "default", "two", "--url", root)
    assert switched.returncode == 0, switched.stderr
    eventually(lambda: cluster.ask(1).headers["x-roundhouse-target"] == "two")

    # Revoked on the second machine, refused by both.
    cluster.run("keys", "revoke", "ann", "--config", str(cluster.configs[1]), machine=1)
    for machine in (0, 1):
        eventually(lambda machine=machine: cluster.ask(machine, key=limited).status_code == 401)

    # The history is one, too.
    stats = json.loads(cluster.run("stats", "--by", "route", "--json", *config).stdout)
    assert [group["names"] for group in stats["groups"]] == [{"route": "default"}]


@pytest.mark.timeout(300)  # three servers are started six times
def test_an_experiment_is_one_for_all_servers_whoever_is_killed_and_whatever_restarts_between(
    cluster: Cluster, postgres: Postgres
) -> None:
    users = [f"user-{number}" for number in range(12)]
    told = 0

    def arms(machine: int) -> dict[str, str]:
        """By user; the outcome of each answer is told to the next server."""
        nonlocal told
        found = {}
        for user in users:
            answer = cluster.ask(machine, user).json()
            found[user] = _arm(answer)
            told += cluster.tell((machine + 1) % len(cluster.servers), answer, 1.0).status_code == 200
        return found

    def command(machine: int, *arguments: str) -> int:
        config = ("--config", str(cluster.configs[machine]))
        return cluster.run("experiment", *arguments, *config, machine=machine).returncode

    def all_give(*expected: str) -> None:
        for machine in range(3):
            eventually(lambda machine=machine: _arm(cluster.ask(machine, users[0]).json()) in expected)

    def replaced(machine: int) -> None:
        """Killed, and started anew by whoever looks after that machine."""
        cluster.servers[machine].process.kill()
        cluster.servers[machine].process.wait()
        cluster.servers[machine] = stack.enter_context(serve(cluster.configs[machine]))

    with ExitStack() as stack, closing(Store(cluster.address)) as store:

        def kept() -> tuple[int, float]:
            store.settle()  # as whoever judges does: two servers may have written at the same moment
            outcomes = store.sums("e", "ok").values()
            return sum(store.counts("e").values()), sum(group.m for arm in outcomes for group in arm.values())

        third = cluster.configs[0].parent.parent / "third"
        third.mkdir()
        cluster.configs.append(third / "c.yaml")
        cluster.configs[2].write_text(cluster.configs[0].read_text())
        cluster.servers.append(stack.enter_context(serve(cluster.configs[2])))

        assert command(0, "start", "e") == 0
        all_give("plain", "cold")
        first = arms(0)
        assert set(first.values()) == {"plain", "cold"}
        eventually(lambda: kept() == (12, told))
        replaced(0)
        assert [arms(machine) for machine in (0, 1)] == [first, first]

        postgres.stop(signal.SIGKILL)
        assert [arms(machine) for machine in (2, 1)] == [first, first]
        assert command(1, "stop", "e") == 1  # it says so, and nothing has changed
        replaced(2)  # with what waited on its disk, and without the database
        assert arms(2) == first
        postgres.start()
        eventually(lambda: kept() == (12, told))
        assert told == 12 * 6
        assert arms(0) == first
        eventually(lambda: kept() == (12, 12 * 7))

        assert command(1, "stop", "e", "--promote", "cold") == 0
        all_give("cold")
        replaced(1)
        for machine in range(3):
            assert set(arms(machine).values()) == {"cold"}

        with ThreadPoolExecutor(2) as pool:  # of two administrators one is told that it is over
            assert sorted(pool.map(lambda machine: command(machine, "stop", "e"), (0, 2))) == [0, 1]
        all_give("")
        assert command(2, "start", "e") == 0
        all_give(first[users[0]])
        assert [arms(machine) for machine in range(3)] == [first] * 3
        eventually(lambda: kept() == (12, 12 * 10))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT], ids=["killed", "immediate"])
def test_its_death_under_load_fails_no_request_and_loses_nothing(
    cluster: Cluster, postgres: Postgres, how: signal.Signals
) -> None:
    assert cluster.run("experiment", "start", "e", "--config", str(cluster.configs[0])).returncode == 0
    for machine in (0, 1):
        eventually(lambda machine=machine: _arm(cluster.ask(machine, "warm-up").json()))
    ended = Event()
    answered: list[dict[str, Any]] = []
    wrong: list[str] = []

    def load(number: int) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            response = cluster.ask((number + turn) % 2, f"user-{number}-{turn}")
            answer = response.json()
            if response.status_code != 200 or not _arm(answer):
                wrong.append(response.text)
                continue
            answered.append(answer)
            told = cluster.tell((number + turn + turn // 2) % 2, answer, 1.0)
            if told.status_code != 200:
                wrong.append(told.text)

    def more(count: int) -> None:
        goal = len(answered) + count
        eventually(lambda: len(answered) >= goal or wrong)

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(load, number) for number in range(4)]
        try:
            more(60)
            for _ in range(2):
                postgres.stop(how)
                more(150)
                postgres.start()
                more(60)
        finally:
            ended.set()
        for task in tasks:
            task.result()
    assert wrong == []
    with closing(Store(cluster.address)) as store:

        def there() -> bool:
            units = sum(store.counts("e").values())
            outcomes = sum(group.m for arm in store.sums("e", "ok").values() for group in arm.values())
            return (units, outcomes) == (len(answered) + 1, len(answered))

        eventually(there)
    eventually(lambda: sum(group.requests for group in statistics(cluster.address, Question())) >= len(answered))

    for config in cluster.configs:
        eventually(lambda config=config: not list((config.parent / "state").rglob("*.jsonl")))


def test_a_killed_server_leaves_what_waited_to_the_next_one(cluster: Cluster, postgres: Postgres) -> None:
    assert cluster.run("experiment", "start", "e", "--config", str(cluster.configs[0])).returncode == 0
    eventually(lambda: _arm(cluster.ask(0, "warm-up").json()))
    with closing(Store(cluster.address)) as store:
        eventually(lambda: sum(store.counts("e").values()) >= 1)
        postgres.stop(signal.SIGKILL)
        assert [cluster.ask(0, f"user-{number}").status_code for number in range(20)] == [200] * 20
        state = cluster.configs[0].parent / "state"

        def lines() -> int:
            return sum(path.read_bytes().count(b'"exposure"') for path in state.rglob("exposures-*.jsonl"))

        eventually(lambda: lines() == 20)
        cluster.servers[0].process.kill()
        cluster.servers[0].process.wait()
        with serve(cluster.configs[0]) as again:  # without the database, and it still knows what runs
            cluster.servers[0] = again
            assert _arm(cluster.ask(0, "after").json())
            postgres.start()
            eventually(lambda: sum(store.counts("e").values()) == 22)


def test_a_server_without_its_database_asks_for_the_keys_it_knew(cluster: Cluster, postgres: Postgres) -> None:
    config = ("--config", str(cluster.configs[0]))
    cluster.key = cluster.run("keys", "create", "boss", "--role", "admin", *config).stdout.strip()
    eventually(lambda: cluster.ask(0, key="wrong").status_code == 401)
    eventually(lambda: cluster.ask(0).status_code == 200)
    (copy,) = (cluster.configs[0].parent / "state").rglob("keys.json")
    assert cluster.key not in copy.read_text()
    assert copy.stat().st_mode & 0o077 == 0
    postgres.stop(signal.SIGKILL)
    assert cluster.ask(0).status_code == 200
    assert cluster.ask(0, key="wrong").status_code == 401
    with serve(cluster.configs[0]) as again:
        cluster.servers[0] = again
        assert cluster.ask(0).status_code == 200
        assert cluster.ask(0, key="wrong").status_code == 401
        new = cluster.configs[0].parent.parent / "new"
        new.mkdir()
        (new / "c.yaml").write_text(cluster.configs[0].read_text())
        with serve(new / "c.yaml") as stranger:  # it knows of no keys, and so cannot know that there are none
            cluster.servers[0] = stranger
            assert cluster.ask(0).status_code == 401
    failed = cluster.run("keys", "list", *config)
    assert failed.returncode == 1
    assert PASSWORD not in failed.stderr
    assert "Connection refused" in failed.stderr
