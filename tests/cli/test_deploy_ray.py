"""`roundhouse deploy kubernetes --nodes`: a RayService that KubeRay would take, whose Pods the API would take.

The schema of a RayService below has the fields that we write, as ray-operator/apis/ray/v1 of KubeRay 1.5 declares them;
the whole one is a megabyte and comes with no package. A manifest was held against it when this was written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from roundhouse.cli.main import app
from roundhouse.config import load
from roundhouse.gateway.build import provider_types

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "roundhouse.yaml"
KEYED = """
llm: {providers: [{type: llamacpp, model: demo, name: demo, replicas: {min: 2, max: 6}}]}
auth: {keys: [{name: a, key: '${ADMIN_KEY}', role: admin}]}
"""


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_POD = {"type": "object", "required": ["spec"]}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
RAY_SERVICE = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata={"type": "object"},
    spec=_object(
        serveConfigV2={"type": "string"},
        excludeHeadPodFromServeSvc={"type": "boolean"},
        rayClusterConfig=_object(
            ("headGroupSpec",),
            rayVersion={"type": "string"},
            enableInTreeAutoscaling={"type": "boolean"},
            authOptions=_object(mode={"enum": ["disabled", "token"]}),
            autoscalerOptions=_object(version={"enum": ["v1", "v2"]}),
            headGroupSpec=_object(("template",), rayStartParams=_TEXTS, template=_POD),
            workerGroupSpecs={
                "type": "array",
                "items": _object(
                    ("groupName", "minReplicas", "maxReplicas", "template"),
                    groupName={"type": "string"},
                    replicas=_COUNT,
                    minReplicas=_COUNT,
                    maxReplicas=_COUNT,
                    rayStartParams=_TEXTS,
                    template=_POD,
                ),
            },
        ),
    ),
)


def _made(config: Path, *flags: str) -> dict[str, Any]:
    command = ["deploy", "kubernetes", "--config", str(config), "--image", "r.example.com/roundhouse:1", *flags]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    return {one["kind"]: one for one in yaml.safe_load_all(found.stdout)}


def _pods(made: dict[str, Any]) -> dict[str, Any]:
    cluster = made["RayService"]["spec"]["rayClusterConfig"]
    return {"head": cluster["headGroupSpec"]["template"], "node": cluster["workerGroupSpecs"][0]["template"]}


@pytest.fixture
def keyed(tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(KEYED)
    return tmp_path / "c.yaml"


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("flags", [(), ("--gpus", "2", "--most-nodes", "9", "--memory-gib", "16", "--cpus", "3.5")])
def test_the_schemas_take_everything_and_know_every_field(version: str, flags: tuple[str, ...]) -> None:
    made = _made(CONFIG, "--nodes", "3", *flags)
    assert set(made) == {"ConfigMap", "PersistentVolumeClaim", "RayService"}
    jsonschema.validate(made["RayService"], RAY_SERVICE)
    for template in _pods(made).values():
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **template}, version, strict=True)
    for kind in ("ConfigMap", "PersistentVolumeClaim"):
        kubernetes_validate.validate(made[kind], version, strict=True)


def test_a_field_that_kuberay_does_not_know_would_be_found() -> None:
    """The check of this file can fail."""
    service = _made(CONFIG, "--nodes", "3")["RayService"]
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replica"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(service, RAY_SERVICE)


def test_names_fit_together() -> None:
    made = _made(CONFIG, "--nodes", "2", "--name", "models", "--namespace", "ai")
    served = yaml.safe_load(made["RayService"]["spec"]["serveConfigV2"])
    for template in _pods(made).values():
        (container,) = template["spec"]["containers"]
        volumes = {one["name"]: one for one in template["spec"]["volumes"]}
        assert {one["name"] for one in container["volumeMounts"]} == set(volumes)
        assert volumes["config"]["configMap"]["name"] == made["ConfigMap"]["metadata"]["name"]
        assert (
            volumes["models"]["persistentVolumeClaim"]["claimName"] == made["PersistentVolumeClaim"]["metadata"]["name"]
        )
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert (
            served["applications"][0]["args"]["config"] == f"{mounts['config']}/{next(iter(made['ConfigMap']['data']))}"
        )
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert environment["XDG_DATA_HOME"] == mounts["models"]
        assert '"models-serve-svc.ai.svc"' in environment["ROUNDHOUSE_SERVER__HOSTS"]
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        assert environment["RAY_SERVE_USE_GRPC_BY_DEFAULT"] == "1"
        assert {"name": "serve", "containerPort": served["http_options"]["port"]} in container["ports"]
    assert made["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_each_node_has_room_for_its_part_of_the_replicas_and_ray_is_told_so(keyed: Path) -> None:
    """And a replica of the largest fits a node, however many nodes there are."""
    rooms = {}
    for nodes in (1, 3, 100):
        worker = _made(keyed, "--nodes", str(nodes))["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
        rooms[nodes] = int(worker["rayStartParams"]["memory"])
        memory = worker["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        assert int(memory.removesuffix("Mi")) << 20 > rooms[nodes] / 0.8
    replica = rooms[1] // 7
    assert rooms[3] == pytest.approx(3 * replica, rel=0.01)
    assert rooms[100] > replica


def test_a_changed_configuration_makes_new_pods(keyed: Path) -> None:
    before = _pods(_made(keyed, "--nodes", "2"))
    keyed.write_text(KEYED + "limits: {queue: 5}\n")
    after = _pods(_made(keyed, "--nodes", "2"))
    for role, template in before.items():
        assert template["metadata"]["annotations"] != after[role]["metadata"]["annotations"]


def test_what_the_pods_would_read_can_be_read(tmp_path: Path) -> None:
    made = _made(CONFIG, "--nodes", "2")
    (tmp_path / "c.yaml").write_text(made["ConfigMap"]["data"]["roundhouse.yaml"])
    environ = {**os.environ, "ADMIN_KEY": "0123456789abcdef0123456789abcdef"}
    assert load(tmp_path / "c.yaml", environ=environ, cwd=tmp_path, types=provider_types()).targets


@pytest.mark.parametrize(
    ("text", "flags", "why"),
    [
        (KEYED, ("--nodes", "3", "--most-nodes", "2"), "--nodes 3"),
        (KEYED, ("--nodes", "3", "--memory-gib", "1.5"), "--memory-gib"),
        (KEYED.partition("auth:")[0] + "auth: {required: true}\n", ("--nodes", "3"), "auth.keys"),
    ],
)
def test_what_could_not_run_is_refused(tmp_path: Path, text: str, flags: tuple[str, ...], why: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    command = ["deploy", "kubernetes", "--config", str(tmp_path / "c.yaml"), "--image", "i", *flags]
    found = CliRunner().invoke(app, command)
    assert found.exit_code != 0
    assert why in str(found.exception)
