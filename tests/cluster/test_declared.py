"""What the RayService declares is what `serve --cluster` starts: Serve takes the words, and builds the same parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from roundhouse.gateway.kubernetes import Wanted
from roundhouse.gateway.kuberay import WantedNodes, ray_manifests
from tests.cluster.conftest import Running

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]
KEYED = """
llm: {providers: [{type: llamacpp, model: demo, name: demo}]}
auth: {keys: [{name: a, key: 0123456789abcdef0123456789abcdef, role: admin}]}
"""


def test_serve_takes_what_is_declared(running: Running, tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    (tmp_path / "c.yaml").write_text(
        KEYED.replace("0123456789abcdef0123456789abcdef", "${KEY:-0123456789abcdef0123456789abcdef}")
    )
    made = ray_manifests(tmp_path / "c.yaml", Wanted("image"), WantedNodes(2, 2)).documents[-1]
    declared = ServeDeploySchema.model_validate(yaml.safe_load(made["spec"]["serveConfigV2"]))
    (application,) = declared.applications
    assert (application.route_prefix, declared.http_options.port) == ("/", 8473)
    module, _, name = application.import_path.partition(":")
    build = getattr(__import__(module, fromlist=[name]), name)
    (tmp_path / "c.yaml").write_text(KEYED)
    built = build({**application.args, "config": str(tmp_path / "c.yaml")})
    assert built._bound_deployment.name == "entrance"
