"""What a target's `model` means on disk, and which licences may be loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from roundhouse.config import Settings, load_text
from roundhouse.core.errors import InUse, InvalidRequest, LicenceRefused, ModelNotFound, NotInStore
from roundhouse.gateway.defaults import with_default_route
from roundhouse.gateway.models import Models, mismatch
from roundhouse.gateway.plan import located
from roundhouse.store.importing import import_model
from roundhouse.store.references import Reference

NOBODY = "http://127.0.0.1:9"


def settings(tmp_path: Path, more: str = "", model: str = "ours", kind: str = "llamacpp") -> Settings:
    text = f"llm: {{providers: [{{type: {kind}, model: {model}}}]}}\nstore: {{path: {tmp_path / 'store'}}}\n{more}"
    return load_text(text)


def bring(of: Settings, source: Path, name: str = "ours", licence: str = "") -> None:
    import_model(Models(of).store, source, name=name, licence=licence, permit=lambda name, licence: None)


def test_each_backend_gets_the_form_it_can_read(tmp_path: Path, demo_gguf: Path) -> None:
    asked = settings(tmp_path)
    bring(asked, demo_gguf)
    bring(asked, demo_gguf.parent / "safetensors")
    assert located(asked.targets[0], asked).suffix == ".gguf"
    transformers = settings(tmp_path, kind="huggingface")
    assert (located(transformers.targets[0], transformers) / "config.json").exists()


def test_a_file_comes_before_a_name(tmp_path: Path, demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(tmp_path)
    bring(asked, demo_gguf)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours").write_bytes(demo_gguf.read_bytes())
    assert located(asked.targets[0], asked) == Path("ours")


def test_a_name_of_the_catalogue_that_is_not_on_disk_says_how_to_get_it(tmp_path: Path) -> None:
    asked = settings(tmp_path, model="mistral-7b-instruct")
    with pytest.raises(NotInStore, match="models pull mistral-7b-instruct"):
        located(asked.targets[0], asked)


def test_a_hub_name_is_left_to_the_backend(tmp_path: Path) -> None:
    asked = settings(tmp_path, model="mistralai/Mistral-7B-Instruct-v0.3", kind="huggingface")
    assert str(located(asked.targets[0], asked)) == "mistralai/Mistral-7B-Instruct-v0.3"


def test_the_files_own_licence_is_enforced_beside_the_one_it_was_brought_in_under(
    tmp_path: Path, demo_gguf: Path
) -> None:
    bring(settings(tmp_path), demo_gguf, licence="mit")
    strict = settings(tmp_path, "licences: {allow: [mit]}")
    with pytest.raises(LicenceRefused, match=r"apache-2\.0"):
        located(strict.targets[0], strict)
    said = mismatch(Models(strict).store.find(Reference("ours")))
    assert "kept under mit" in said
    assert "Apache License 2.0" in said


def test_a_file_outside_the_store_has_the_licence_of_its_header(tmp_path: Path, demo_gguf: Path) -> None:
    strict = settings(tmp_path, "licences: {deny: [Apache-2.0]}", model=str(demo_gguf))
    with pytest.raises(LicenceRefused, match=r"licences\.deny"):
        located(strict.targets[0], strict)


async def test_without_a_configuration_mistral_in_the_store_answers(tmp_path: Path, demo_gguf: Path) -> None:
    empty = Settings(store=settings(tmp_path).store)
    assert (await with_default_route(empty, ollama_url=NOBODY)).targets[0].name == "demo"
    bring(empty, demo_gguf, name="mistral-7b-instruct")
    target = (await with_default_route(empty, ollama_url=NOBODY)).targets[0]
    assert (target.type, target.model) == ("llamacpp", "mistral-7b-instruct")


def test_what_another_process_has_loaded_is_not_removed(tmp_path: Path, demo_gguf: Path) -> None:
    asked = settings(tmp_path)
    bring(asked, demo_gguf)
    code = (
        "import sys; from pathlib import Path\n"
        "from roundhouse.store.repository import Store; from roundhouse.store.references import Reference\n"
        f"store = Store(Path({str(tmp_path / 'store')!r})); lease = store.use(store.find(Reference('ours')))\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InUse):
            Models(asked).store.remove(Reference("ours"))
        holder.kill()
    assert len(Models(asked).store.remove(Reference("ours"))) == 1


def test_what_is_asked_to_be_pulled(tmp_path: Path) -> None:
    models = Models(settings(tmp_path))
    assert models.order("mistral-7b-instruct").repository.endswith("-GGUF")
    assert models.order("mistral-7b-instruct:safetensors").form == "safetensors"
    assert models.order("mistral-7b-instruct:q8_0").quantisation == "q8_0"
    assert models.order("Acme/Some.Model-GGUF", revision="v2").revision == "v2"
    assert models.order("https://host/dir/Model-Q8_0.gguf?x=1").name == "model-q8_0"
    with pytest.raises(ModelNotFound, match="mistral-7b-instruct"):
        models.order("nothing-such")
    with pytest.raises(InvalidRequest, match="built in"):
        models.order("demo")
    with pytest.raises(InvalidRequest, match="no address"):
        models.order("http://[x/y.gguf")


def test_what_was_imported_has_no_source_to_update_from(tmp_path: Path, demo_gguf: Path) -> None:
    asked = settings(tmp_path)
    bring(asked, demo_gguf)
    models = Models(asked)
    with pytest.raises(InvalidRequest, match="was imported from"):
        models.renewal(models.store.find(Reference("ours")))
