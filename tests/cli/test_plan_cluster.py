"""`roundhouse plan --cluster`: what fits where, how many replicas, what a dead node costs; wrong files are told."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from roundhouse.cli.main import app
from roundhouse.config import Invalid, Settings
from roundhouse.config.cluster import read_cluster
from roundhouse.core.errors import ConfigError, ModelNotFound
from roundhouse.gateway.cluster import ClusterPlan, plan_cluster

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster.yaml"


def _plan(tmp_path: Path, text: str) -> ClusterPlan:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return plan_cluster(read_cluster(path), Settings())


def test_the_example_fits_and_says_what_each_dead_node_costs() -> None:
    found = CliRunner().invoke(app, ["plan", "--cluster", str(EXAMPLE), "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert [(one["model"], one["needed"], one["placed"]) for one in told["models"]] == [
        ("chat", 3, 3),
        ("extract", 4, 4),
    ]
    assert set(told["losses"]) == {"gpu-1", "gpu-2", "small"}
    chat = next(one for one in told["losses"]["gpu-1"] if one["model"] == "chat")
    assert (chat["before"], chat["left"], chat["back"], chat["held"]) == (3, 1, 2, False)
    assert chat["served"] == pytest.approx(1.4 / 3)
    assert "objective missed" in CliRunner().invoke(app, ["plan", "--cluster", str(EXAMPLE)]).stdout


def test_what_does_not_fit_is_said_and_ends_with_1(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("nodes: [{name: a, cpus: 4, memory_gib: 8}]\nmodels: [{name: m, memory_gib: 4, replicas: 3}]\n")
    found = CliRunner().invoke(app, ["plan", "--cluster", str(path)])
    assert found.exit_code == 1
    assert "no room for all" in found.stdout


def test_a_model_of_a_file_is_planned_from_its_header_on_processors_and_on_gpus(tmp_path: Path) -> None:
    """Where a node has a GPU its memory is used, whatever this machine's own llama.cpp can do."""
    plan = _plan(
        tmp_path,
        "nodes: [{name: a, cpus: 4, memory_gib: 8, gpus: 1, gpu_memory_gib: 8}]\n"
        "models: [{name: m, model: demo, options: {n_ctx: 512}}]\n",
    )
    (one,) = plan.cluster.placed
    assert one.needs["cuda0"] > 10 << 20
    plan = _plan(tmp_path, "nodes: [{name: a, cpus: 4, memory_gib: 8}]\nmodels: [{name: m, model: demo}]\n")
    assert set(plan.cluster.placed[0].needs) == {"cpu", "cores"}


def test_processors_bound_the_replicas_too(tmp_path: Path) -> None:
    plan = _plan(
        tmp_path,
        "nodes: [{name: a, cpus: 4, memory_gib: 80}]\nmodels: [{name: m, memory_gib: 1, cpus: 1.5, replicas: 3}]\n",
    )
    assert (plan.models[0].needed, plan.models[0].placed, plan.fits) == (3, 2, False)


def test_vllm_takes_whole_gpus_and_needs_as_many_as_it_is_split_over(tmp_path: Path) -> None:
    models = "models: [{name: m, type: vllm, model: org/name, options: {tensor_parallel_size: 2}, replicas: 2}]\n"
    four = _plan(tmp_path, "nodes: [{name: a, cpus: 8, memory_gib: 8, gpus: 4, gpu_memory_gib: 8}]\n" + models)
    # 0.9 of a GPU is more than the 0.8 that may be used of it
    assert four.models[0].placed == 0
    text = "memory_fraction: 0.95\nnodes: [{name: a, cpus: 8, memory_gib: 8, gpus: %d, gpu_memory_gib: 8}]\n" + models
    assert _plan(tmp_path, text % 4).models[0].placed == 2
    assert _plan(tmp_path, text % 3).models[0].placed == 1


NODE = "nodes: [{name: a, cpus: 4, memory_gib: 8}]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty; it should begin with nodes:"),
        ("nodes: []\nmodels: []\n", "expected a list of at least 1"),
        ("nodes: [{name: a, cpu: 4, cpus: 4, memory_gib: 8}]\nmodels: []\n", "did you mean cpus?"),
        ("nodes: [{name: a, cpus: 4, memory_gib: .inf}]\nmodels: [{name: m}]\n", "expected a number"),
        (NODE + "models: [{name: m}]\n", "give either model, or memory_gib"),
        (NODE + "models: [{name: m, model: demo, memory_gib: 1}]\n", "give either model, or memory_gib"),
        (NODE + "models: [{name: m, memory_gib: 1, rate: 3}]\n", "rate needs per_replica"),
        (NODE + "models: [{name: m, memory_gib: 1, wait: 3}]\n", "wait says nothing without rate"),
        (NODE + "models: [{name: m, memory_gib: 1}, {name: m, memory_gib: 1}]\n", '"m" stands twice'),
        (NODE + "models: [{name: m, memory_gib: 1, type: vllm}]\n", "type says how to read `model`"),
        ("nodes: [{name: a, cpus: 4, memory_gib: 8, gpus: 2}]\nmodels: [{name: m, model: demo}]\n", "given together"),
        ("nodes: [{name: a, cpus: 4, memory_gib: 8, count: 1000}, {name: b, cpus: 1, memory_gib: 1}]\n"
         "models: [{name: m, model: demo}]\n", "1001 machines"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_line_and_reason(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_cluster(path)
    faults = refused.value.faults if isinstance(refused.value, Invalid) else (refused.value,)
    assert any(said in str(fault) for fault in faults), faults
    assert all(fault.source == str(path) for fault in faults)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("nodes: [{name: a, cpus: 0, memory_gib: x}]\nmodels: [{name: m, model: demo}]\n")
    with pytest.raises(Invalid) as refused:
        read_cluster(path)
    assert len(refused.value.faults) == 2


def test_a_model_file_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="or give memory_gib"):
        _plan(tmp_path, NODE + "models: [{name: m, model: ./absent.gguf}]\n")


def test_a_rate_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="look at rate and per_replica"):
        _plan(tmp_path, NODE + "models: [{name: m, memory_gib: 1, rate: 1000000, per_replica: 0.001}]\n")


@pytest.mark.parametrize("flags", [[], ["demo", "--cluster", str(EXAMPLE)], ["--cluster", str(EXAMPLE), "--ctx", "5"]])
def test_a_model_and_a_cluster_are_two_questions(flags: list[str]) -> None:
    assert CliRunner().invoke(app, ["plan", *flags]).exit_code == 2
