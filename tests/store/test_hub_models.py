"""What a model of the hub is, from its first bytes or from HuggingFace's cache. The hub is on loopback."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from roundhouse.core.errors import BadHeader, DownloadFailed
from roundhouse.core.model import ModelFacts
from roundhouse.gateway.demo import demo_safetensors
from roundhouse.store.headers import read_model
from roundhouse.store.hub_models import HubModels, ask_hub, cached_snapshot, is_hub_name
from tests.fakes.hub import Hub, running_hub

NAME = "acme/varo"
SAFETENSORS_FOLDER = demo_safetensors()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def environ(hub: Hub, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_good"}


def _demo() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in SAFETENSORS_FOLDER.iterdir() if path.is_file()}


def _safetensors(tensors: Mapping[str, tuple[int, int]]) -> bytes:
    """One file of F32 matrices, all zero."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def _sharded() -> dict[str, bytes]:
    """A model in two files, one with a header longer than a first look, and a third that its index does not name."""
    layers = {f"model.layers.0.mlp.experts.{number}.w1.weight": (4, 4) for number in range(4000)}
    first, second = {"model.embed_tokens.weight": (1024, 64), **layers}, {"lm_head.weight": (1024, 640)}
    parts = {"model-1.safetensors": first, "model-2.safetensors": second}
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4,
              "vocab_size": 1024, "max_position_embeddings": 512}  # fmt: skip
    where = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": where}).encode(),
        "adapter.safetensors": _safetensors({"other": (8, 8)}),
        **{name: _safetensors(tensors) for name, tensors in parts.items()},
    }


def _as_told(facts: ModelFacts) -> dict[str, object]:
    fields = {name: getattr(facts, name) for name in ModelFacts.__dataclass_fields__}
    return {name: value for name, value in fields.items() if name not in ("name", "licence", "chat_template")}


@pytest.mark.parametrize("files", [_demo(), _sharded()], ids=["one file", "several"])
def test_the_hub_tells_what_the_files_would(
    hub: Hub, environ: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    """The facts are those of the downloaded folder; of the weights only headers are fetched."""
    hub.push(NAME, files)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = ask_hub(NAME, "main", environ, 30.0)
    assert _as_told(found) == _as_told(read_model(tmp_path))
    assert (found.name, found.licence) == (NAME, "apache-2.0")
    assert found.split_expert_bytes in (0, 4000 * 4 * 4 * 4)
    weights = {name: content for name, content in files.items() if name.endswith(".safetensors")}
    assert sum(hub.served[name] for name in weights) < sum(map(len, weights.values()))
    assert "adapter.safetensors" not in hub.served


def test_what_cannot_be_had_is_said_in_words(hub: Hub, environ: dict[str, str]) -> None:
    hub.push(NAME, _demo())
    hub.gated.add(NAME)
    with pytest.raises(DownloadFailed, match="no such repository"):
        ask_hub("acme/nothing", "main", environ)
    with pytest.raises(DownloadFailed, match="no revision old"):
        ask_hub(NAME, "old", environ)
    with pytest.raises(DownloadFailed, match="terms must be accepted"):
        ask_hub(NAME, "main", {**environ, "HF_TOKEN": "hf_other"})
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE"):
        ask_hub(NAME, "main", {**environ, "HF_HUB_OFFLINE": "1"})
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        ask_hub(NAME, "main", {**environ, "HF_ENDPOINT": "http://127.0.0.1:9"})
    with pytest.raises(DownloadFailed, match="could not be asked"):
        ask_hub(NAME, "main", {**environ, "PYTHONPATH": "", "PYTHONHOME": "/nowhere"})


def test_a_hub_that_falls_silent_is_not_waited_for(hub: Hub, environ: dict[str, str]) -> None:
    hub.push(NAME, _demo())
    hub.faults.stall = 100
    with pytest.raises(DownloadFailed, match="did not say within 3 s"):
        ask_hub(NAME, "main", environ, 3.0)


def test_a_header_that_lies_is_refused(hub: Hub, environ: dict[str, str]) -> None:
    hub.push(NAME, {**_sharded(), "model-2.safetensors": b"\xff" * 100_000})
    with pytest.raises(BadHeader, match=r"model-2\.safetensors"):
        ask_hub(NAME, "main", environ)
    missing = _sharded()
    del missing["model-2.safetensors"]
    hub.push(NAME, missing)
    with pytest.raises(DownloadFailed, match=r"lacks model-2\.safetensors"):
        ask_hub(NAME, "main", environ)


def test_a_download_is_found_where_the_library_put_it(hub: Hub, environ: dict[str, str], tmp_path: Path) -> None:
    """By branch and by commit, in a cache moved by any of its variables."""
    commit = hub.push(NAME, _demo())
    config = hf_hub_download(NAME, "config.json", endpoint=hub.url, cache_dir=tmp_path / "hf" / "hub")
    place = Path(config).parent
    moved = {"HF_HUB_CACHE": str(tmp_path / "hf" / "hub")}
    for revision, where in (("main", environ), (commit, environ), ("main", moved)):
        assert cached_snapshot(NAME, revision, where) == place
    for revision in ("other", "../main", "/etc", "a/../../b"):
        assert cached_snapshot(NAME, revision, environ) is None
    assert cached_snapshot("acme/other", "main", environ) is None
    assert cached_snapshot(NAME, "main", {"XDG_CACHE_HOME": str(tmp_path)}) is None


def test_an_answer_is_kept_and_a_failure_for_a_minute() -> None:
    asked: list[str] = []
    now = [0.0]
    facts = read_model(SAFETENSORS_FOLDER)

    def ask(repository: str, revision: str, environ: Mapping[str, str]) -> ModelFacts:
        asked.append(f"{repository}@{revision}")
        if len(asked) < 3:
            raise DownloadFailed("it is not there", url=repository)
        return facts

    models = HubModels(ask, lambda: now[0])
    for at in (0.0, 59.0, 61.0):
        now[0] = at
        with pytest.raises(DownloadFailed):
            models.facts(NAME, "main", {})
    assert len(asked) == 2
    for at in (130.0, 10_000.0):
        now[0] = at
        assert models.facts(NAME, "main", {}) == facts
    assert len(asked) == 3
    models.facts(NAME, "other", {})
    assert asked[-1] == f"{NAME}@other"


@pytest.mark.parametrize("name", ["acme/varo", "gpt2", "mistralai/Mistral-7B-Instruct-v0.3"])
def test_names_of_the_hub(name: str) -> None:
    assert is_hub_name(name)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/b/c", "~/model", "a/..", "x/model.gguf", "a b/c", "./m"]
)
def test_names_that_are_none(name: str) -> None:
    assert not is_hub_name(name)
