"""`roundhouse deploy kubernetes`: manifests that the API would take, that run, and that hold no secret."""

import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from roundhouse.cli.main import app
from tests import forge

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "roundhouse.yaml"
KEY = "0123456789abcdef0123456789abcdef"
BARE = "llm: {providers: [{type: llamacpp, model: demo, name: demo}]}\n"
KEYED = BARE + "auth: {keys: [{name: a, key: '${ADMIN_KEY}', role: admin}]}\n"


def _made(config: Path, *flags: str) -> dict[str, Any]:
    command = ["deploy", "kubernetes", "--config", str(config), "--image", "r.example.com/roundhouse:1", *flags]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    return {one["kind"]: one for one in yaml.safe_load_all(found.stdout)}


def _container(made: dict[str, Any]) -> Any:
    return made["Deployment"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize(
    "flags", [(), ("--gpus", "2", "--storage-class", "fast", "--cpus", "0.5", "--memory-gib", "3")]
)
def test_the_schemas_take_every_document_and_know_every_field(version: str, flags: tuple[str, ...]) -> None:
    made = _made(CONFIG, *flags)
    assert set(made) == {"ConfigMap", "PersistentVolumeClaim", "Deployment", "Service"}
    for document in made.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_the_schemas_do_not_know_would_be_found() -> None:
    """The check of this file can fail."""
    deployment = _made(CONFIG)["Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_names_fit_together() -> None:
    """Selector and labels, claims and volumes, mounts and volumes, ports and probes, the image's user."""
    made = _made(CONFIG, "--name", "models", "--namespace", "ai")
    spec = made["Deployment"]["spec"]
    pod, container = spec["template"]["spec"], _container(made)
    assert (
        spec["selector"]["matchLabels"] == made["Service"]["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    )
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == set(volumes)
    assert volumes["config"]["configMap"]["name"] == made["ConfigMap"]["metadata"]["name"]
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == made["PersistentVolumeClaim"]["metadata"]["name"]
    assert {document["metadata"]["namespace"] for document in made.values()} == {"ai"}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}" in dockerfile
    drain_s = yaml.safe_load(made["ConfigMap"]["data"]["roundhouse.yaml"])["server"]["drain"]
    assert pod["terminationGracePeriodSeconds"] > drain_s


def test_a_changed_configuration_makes_a_new_pod(tmp_path: Path) -> None:
    hashes = set()
    for text in (KEYED, KEYED + "limits: {queue: 5}\n"):
        (tmp_path / "c.yaml").write_text(text)
        template = _made(tmp_path / "c.yaml")["Deployment"]["spec"]["template"]
        hashes.add(template["metadata"]["annotations"]["roundhouse/config-sha256"])
    assert len(hashes) == 2


def test_memory_is_that_of_all_replicas_of_all_models(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 3):
        (tmp_path / "c.yaml").write_text(KEYED.replace("name: demo", f"name: demo, replicas: {{max: {count}}}"))
        sizes.append(_container(_made(tmp_path / "c.yaml"))["resources"]["limits"]["memory"])
    one, three = (int(size.removesuffix("Mi")) - 512 for size in sizes)
    assert three == pytest.approx(3 * one, abs=2)


def test_secrets_stay_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is set here is not written, but named; what has a default may be absent there."""
    monkeypatch.setenv("ADMIN_KEY", KEY)
    (tmp_path / "c.yaml").write_text(KEYED + "# ${NOT_ASKED}\nlimits:\n  queue: ${QUEUE:-7}\n")
    command = ["deploy", "kubernetes", "--config", str(tmp_path / "c.yaml"), "--image", "i", "--json"]
    found = CliRunner().invoke(app, command)
    assert KEY not in found.output
    (deployment,) = (one for one in json.loads(found.stdout)["items"] if one["kind"] == "Deployment")
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    named = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in env if "valueFrom" in one}
    assert {name: one["optional"] for name, one in named.items()} == {"ADMIN_KEY": False, "QUEUE": True}


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        (BARE, [], "it needs keys"),
        (KEYED.replace("${ADMIN_KEY}", KEY), [], "would stand in a ConfigMap"),
        (KEYED.replace("model: demo", "model: demo, api_key: sk-1234"), [], "would stand in a ConfigMap"),
        (KEYED.replace("model: demo", "model: ./absent.gguf"), [], "give --memory-gib"),
        (KEYED, ["--name", "Round_House"], "lower case letters"),
        (KEYED, ["--image", "two words"], "expected the name of an image"),
        ("llm: {}\n", [], 'the key "providers" is missing'),
    ],
)
def test_what_could_not_run_is_refused(tmp_path: Path, text: str, flags: list[str], said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    ended = forge.run("deploy", "kubernetes", "--config", str(tmp_path / "c.yaml"), "--image", "i", *flags)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_what_the_pod_runs_answers_its_probes_and_its_service(tmp_path: Path) -> None:
    """With its arguments, its environment and its configuration, on a port and in folders of here."""
    made = _made(CONFIG)
    container = _container(made)
    (tmp_path / "roundhouse.yaml").write_text(
        made["ConfigMap"]["data"]["roundhouse.yaml"].replace("/var/lib/roundhouse", str(tmp_path))
    )
    args = [one.replace("/etc/roundhouse", str(tmp_path)).replace("8473", "0") for one in container["args"]]
    env = {
        one["name"]: one["value"].replace("/var/lib/roundhouse", str(tmp_path))
        for one in container["env"]
        if "value" in one
    }
    process = forge.Command(*args, env={**os.environ, **env, "ADMIN_KEY": KEY})
    try:
        port = re.search(r":(\d+)/", process.stdout.readline())
        assert port is not None
        root = f"http://127.0.0.1:{port[1]}"
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[name]["httpGet"]
            headers = {one["name"]: one["value"] for one in get["httpHeaders"]}
            assert httpx.get(root + get["path"], headers=headers).status_code == 200, name
        for host in ("roundhouse.default.svc:8473", "roundhouse.default.svc.cluster.local"):
            asked = httpx.get(root + "/v1/models", headers={"host": host, "authorization": f"Bearer {KEY}"})
            assert asked.status_code == 200
    finally:
        process.kill()
        process.wait()
        process.close()
