"""`roundhouse deploy`: what another system needs to run the server, written out. Nothing is contacted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from roundhouse.cli.common import print_json, tell
from roundhouse.gateway.kuberay import WantedNodes, ray_manifests
from roundhouse.gateway.kubernetes import Wanted, manifests

__all__ = ["app"]

app = typer.Typer(help="Manifests for other systems, from the configuration.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `kubernetes` a command of its own while it is the only one."""


@app.command()
def kubernetes(
    config: Annotated[Path, typer.Option("--config", help="The configuration that the server shall have.")],
    image: Annotated[str, typer.Option(help="The image, as built from deploy/Dockerfile.")],
    name: Annotated[str, typer.Option(help="Name of all that is made.")] = "roundhouse",
    namespace: Annotated[str, typer.Option(help="Where; the cluster needs to have it.")] = "default",
    secret: Annotated[str, typer.Option(help="The Secret with the variables; default: NAME-env.")] = "",
    cpus: Annotated[float, typer.Option(min=0.1, help="Processors that it asks for.")] = 2.0,
    memory_gib: Annotated[
        float, typer.Option(min=0.0, help="Memory, in GiB; 0 = what its models are planned to take.")
    ] = 0.0,
    gpus: Annotated[int, typer.Option(min=0, max=64, help="NVIDIA GPUs.")] = 0,
    storage_gib: Annotated[int, typer.Option(min=1, help="Volume for models and state, in GiB.")] = 50,
    storage_class: Annotated[str, typer.Option(help="Its class; default: the cluster's own.")] = "",
    nodes: Annotated[int, typer.Option(min=0, help="Nodes of a Ray cluster, by KubeRay; 0 = one server.")] = 0,
    most_nodes: Annotated[int, typer.Option(min=0, help="So many nodes under load; 0 = no more than --nodes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of kind List.")] = False,
) -> None:
    """A Deployment of one server with its Service, ConfigMap and volume, for `kubectl apply -f -`; with --nodes a
    RayService, of which processors, memory and GPUs are those of each node.

    The configuration goes in as it is written: what it names as ${VAR} comes from the Secret, by its name.
    """
    wanted = Wanted(
        image=image,
        name=name,
        namespace=namespace,
        secret=secret or f"{name}-env",
        cpus=cpus,
        memory_bytes=int(memory_gib * (1 << 30)),
        gpus=gpus,
        storage_gib=storage_gib,
        storage_class=storage_class,
    )
    if nodes:
        made = ray_manifests(config, wanted, WantedNodes(nodes, most_nodes or nodes))
    else:
        made = manifests(config, wanted)
    for note in made.notes:
        tell(f"note: {note}")
    if as_json:
        print_json({"apiVersion": "v1", "kind": "List", "items": list(made.documents)})
    else:
        print(yaml.dump_all(made.documents, Dumper=_Readable, sort_keys=False, width=110), end="")


class _Readable(yaml.SafeDumper):
    """Texts of several lines as they are read; nothing as an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)
