"""`roundhouse state`, and what other commands say of a shared database: never its password."""

import json
import os
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from roundhouse.access.keys import KeyFile, Role, new_key
from roundhouse.access.table import KeyTable
from roundhouse.database import Address
from roundhouse.experiments.design import Arm, Experiment
from roundhouse.experiments.store import Exposure, Outcome, Store
from roundhouse.history.question import Question
from roundhouse.history.statistics import statistics
from roundhouse.history.store import Writer, row_of
from tests import forge
from tests.history.events import ended
from tests.postgres import PASSWORD, Postgres

SECRET = "hunter2secret"


class Machine:
    """A configuration, and the folders of a user who runs commands with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "c.yaml"
        self.state = folder / "state" / "roundhouse"

    def write(self, **state: str) -> None:
        provider = {"type": "openai", "model": "m", "endpoint": "http://127.0.0.1:9"}
        self.config.write_text(
            json.dumps({"llm": {"providers": [provider]}, "auth": {"keys_file": "keys.json"}, "state": state})
        )

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [*arguments]
        if arguments[0] != "config" or arguments[1] == "show":
            command += ["--config", str(self.config)]
        own = {**os.environ, "XDG_STATE_HOME": str(self.folder / "state"), **environ}
        return forge.run(*command, env=own)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def _fill(state: Path, salt_of: str = "e") -> None:
    with closing(Store(state / "experiments.sqlite")) as store:
        store.start(Experiment(salt_of, (Arm("a"), Arm("b")), "ok", prompt="p"), 1.0)
        numbers = range(1, 7001)
        store.write(
            [Exposure(n, salt_of, n, "ab"[n % 2], "ab"[n % 2], "1:m", 0.5, 0.0, float(n)) for n in numbers],
            [Outcome(n, n, "ok", float(n % 2), 1.0) for n in numbers],
        )
    writer = Writer(state / "history.sqlite")
    writer.write([row_of(ended(request_id=str(n)), float(n)) for n in range(1500)])
    writer.close()


@pytest.mark.postgres
def test_files_are_imported_whole_and_twice_is_as_once(postgres: Postgres, machine: Machine) -> None:
    _fill(machine.state)
    key, _ = new_key("ann", Role.CLIENT, now=1.0)
    KeyFile(machine.folder / "keys.json").add(key)
    address = Address(postgres.fresh(), PASSWORD)
    machine.write(url=address.url, password=PASSWORD)
    for _ in range(2):
        done = machine.run("state", "import")
        assert done.returncode == 0, done.stderr
        assert "has 7000 exposures, 1500 requests and 1 keys" in done.stdout
    with closing(Store(address)) as shared, closing(Store(machine.state / "experiments.sqlite")) as local:
        assert shared.runs() == local.runs()
        assert shared.events("e") == local.events("e")
        assert (shared.counts("e"), shared.sums("e", "ok")) == (local.counts("e"), local.sums("e", "ok"))
    assert statistics(address, Question())[0].requests == 1500
    with closing(KeyTable(address)) as table:
        assert table.read() == (key,)
    assert json.loads(machine.run("keys", "list", "--json").stdout)[0]["name"] == "ann"


@pytest.mark.postgres
def test_what_was_begun_in_both_is_left_out_and_said(postgres: Postgres, machine: Machine) -> None:
    _fill(machine.state)
    address = Address(postgres.fresh(), PASSWORD)
    machine.write(url=address.url, password=PASSWORD)
    KeyFile(machine.folder / "keys.json").add(new_key("ann", Role.CLIENT)[0])
    with closing(Store(address)) as shared, closing(KeyTable(address)) as table:
        shared.start(Experiment("e", (Arm("a"), Arm("b")), "ok", prompt="p"), 1.0)
        table.add(new_key("ann", Role.ADMIN)[0])
        done = machine.run("state", "import")
        assert "left out: experiment e" in done.stderr
        assert "left out: key ann" in done.stderr
        assert shared.counts("e") == {}
        assert [one.role for one in table.read()] == [Role.ADMIN]


@pytest.mark.postgres
def test_status_and_doctor_say_whether_it_answers_and_no_command_shows_the_password(
    postgres: Postgres, machine: Machine
) -> None:
    url = postgres.fresh().replace("roundhouse@", "roundhouse:${PASSWORD_OF_IT}@")
    machine.write(url=url)
    hidden = {"PASSWORD_OF_IT": SECRET}
    failed = machine.run("state", "status", **hidden)
    assert failed.returncode == 1
    assert "password authentication failed" in failed.stdout
    machine.write(url=postgres.fresh(), password="${PASSWORD_OF_IT}")
    said = machine.run("state", "status", PASSWORD_OF_IT=PASSWORD)
    assert said.returncode == 0, said.stderr
    assert "it answers, PostgreSQL" in said.stdout
    doctor = machine.run("doctor", PASSWORD_OF_IT=PASSWORD)
    assert "it answers, PostgreSQL" in doctor.stdout
    assert "state: NO " in machine.run("doctor", **hidden).stdout
    results = [
        machine.run("config", "show", **hidden),
        machine.run("config", "show", "--json", **hidden),
        machine.run("config", "check", str(machine.config), **hidden),
        machine.run("keys", "list", **hidden),
        machine.run("stats", **hidden),
        machine.run("experiment", "list", **hidden),
        machine.run("state", "import", **hidden),
        machine.run("--debug", "doctor", **hidden),
        failed,
    ]
    for result in results:
        assert SECRET not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"url": "mysql://h/d"}, "expected the address of a PostgreSQL"),
        ({"url": f"postgresql://u:{SECRET}@x@h/d"}, "state.password"),
        ({"url": f"postgresql://u:{SECRET}/@h/d"}, "state.password"),
        ({"url": f"postgresql://u:{SECRET}#@h/d"}, "state.password"),
        ({"url": f"postgresql://h/d?password={SECRET}"}, "does not belong into the parameters"),
        ({"url": "postgresql://h:0/d"}, "port 0"),
        ({"uri": "postgresql://h/d"}, 'unknown key "uri"'),
        ({"url": 7}, "expected the address of a PostgreSQL"),
    ],
)
def test_a_wrong_address_is_a_fault_of_the_configuration(machine: Machine, state: dict[str, Any], said: str) -> None:
    machine.write(**state)
    checked = machine.run("config", "check", str(machine.config))
    assert checked.returncode == 2
    assert said in checked.stderr
    assert SECRET not in checked.stderr


def test_without_a_database_state_is_files_and_there_is_nothing_to_import_into(machine: Machine) -> None:
    machine.write()
    assert "files of this user" in machine.run("state", "status").stdout
    refused = machine.run("state", "import")
    assert refused.returncode == 2
    assert "state: {url: postgresql://...}" in refused.stderr
