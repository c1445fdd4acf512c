"""What the RayService declares is what `serve --cluster` starts: Serve takes the words, and builds the same parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from roundhouse.gateway.kuberay import WantedNodes, ray_manifests
from roundhouse.gateway.kubernetes import Wanted
from tests.cluster.conftest import Running

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]
KEYED = """
llm: {providers: [{type: llamacpp, model: demo, name: demo}]}
auth: {keys: [{name: a, key: "${CLUSTER_KEY}", role: admin}]}
"""


def test_serve_takes_what_is_declared(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    (tmp_path / "c.yaml").write_text(KEYED)
    made = ray_manifests(tmp_path / "c.yaml", Wanted("image"), WantedNodes(2, 2)).documents[-1]
    declared = ServeDeploySchema.model_validate(yaml.safe_load(made["spec"]["serveConfigV2"]))
    (application,) = declared.applications
    assert (application.route_prefix, declared.http_options.port) == ("/", 8473)
    monkeypatch.setenv("CLUSTER_KEY", "0123456789abcdef0123456789abcdef")
    module, _, name = application.import_path.partition(":")
    build = getattr(__import__(module, fromlist=[name]), name)
    built = build({**application.args, "config": str(tmp_path / "c.yaml")})
    assert built._bound_deployment.name == "entrance"
