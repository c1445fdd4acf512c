"""The unit, the image and the compose file: accepted by the linters of their formats, and what they run does run."""

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from roundhouse.config import load
from tests.forge import Command, run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KEY = "0123456789abcdef0123456789abcdef"


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _unit() -> dict[str, str]:
    """The section [Service]; of a key that stands twice the last one."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "roundhouse.service")
    return dict(parser["Service"])


def _compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["roundhouse"]


def _dockerfile(word: str) -> list[str]:
    """What follows `word` in each instruction of it."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^(?:HEALTHCHECK.*)?{word} (.*)$", text, re.M)


def test_the_dockerfile_passes_hadolint() -> None:
    ended = subprocess.run([_program("hadolint"), str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_the_compose_file_has_the_form_of_its_schema() -> None:
    command = [_program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_the_unit_is_understood_by_systemd(tmp_path: Path) -> None:
    text = (DEPLOY / "roundhouse.service").read_text()
    unit = tmp_path / "roundhouse.service"
    unit.write_text(text.replace("/opt/roundhouse/bin/roundhouse", _program("roundhouse")))
    ended = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_image_is_made_of_files_that_are_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [line.split()[:-1] for line in _dockerfile("COPY") if not line.startswith("--from")]
    assert {name for names in copied for name in names} == kept
    for name in kept:
        assert (ROOT / name).exists(), name


def test_whoever_stops_it_waits_longer_than_requests_may_take_to_end() -> None:
    drain_s = load(DEPLOY / "roundhouse.yaml", environ={"ADMIN_KEY": KEY}, cwd=ROOT).server.drain_s
    assert int(_unit()["TimeoutStopSec"]) > drain_s
    assert int(_compose()["stop_grace_period"].removesuffix("s")) > drain_s
    assert _unit()["KillMode"] == "mixed"


@contextmanager
def _started(tmp_path: Path, command: list[str], **environ: str) -> Iterator[tuple[Command, str]]:
    """`command` as the unit or the image gives it, with paths of here; and the server's root."""
    config = tmp_path / "roundhouse.yaml"
    config.write_text((DEPLOY / "roundhouse.yaml").read_text().replace("/var/lib/roundhouse", str(tmp_path)))
    command = [*command[1:], "--port", "0"]
    command = [str(config) if part.endswith(".yaml") else part for part in command]
    env = {**os.environ, "ROUNDHOUSE_CONFIG": str(config), "OLLAMA_URL": "http://127.0.0.1:9", **environ}
    process = Command(*command, env=env)
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.stderr.read()
        yield process, f"http://127.0.0.1:{line.rpartition(':')[2].split('/')[0]}"
    finally:
        process.kill()
        process.wait()
        process.close()


def test_what_the_image_runs_serves_everybody_who_has_the_key(tmp_path: Path) -> None:
    (entry,), commands = _dockerfile("ENTRYPOINT"), _dockerfile("CMD")
    check, command = (json.loads(one) for one in commands)
    with _started(tmp_path, [*json.loads(entry), *command], ADMIN_KEY=KEY) as (process, root):
        assert httpx.get(root + "/v1/models").status_code == 401
        headers = {"authorization": f"Bearer {KEY}", "host": "roundhouse:8473"}
        assert httpx.get(root + "/v1/models", headers=headers).status_code == 200
        healthy = [sys.executable, "-c", check[2].replace("http://127.0.0.1:8473", root)]
        assert subprocess.run(healthy).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert subprocess.run(healthy, capture_output=True).returncode != 0


def test_what_the_unit_runs_is_reloaded_and_stopped_by_its_signals(tmp_path: Path) -> None:
    unit = _unit()
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    with _started(tmp_path, unit["ExecStart"].split(), ADMIN_KEY=KEY) as (process, root):
        config = tmp_path / "roundhouse.yaml"
        config.write_text(config.read_text().replace("hosts: [roundhouse]", "hosts: [other]"))
        process.send_signal(signal.SIGHUP)
        assert next(line for line in process.stderr if "reload" in line) == "reload: renewed: server.hosts\n"
        answer = httpx.get(root + "/v1/models", headers={"authorization": f"Bearer {KEY}", "host": "other"})
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()


def test_without_a_key_nothing_is_served(tmp_path: Path) -> None:
    ended = run("serve", "--config", str(DEPLOY / "roundhouse.yaml"))
    assert ended.returncode == 2
    assert "the environment variable ADMIN_KEY is not set" in ended.stderr
