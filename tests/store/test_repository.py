"""The store: what is published is whole, what is in use stays, what is damaged is said."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest

from roundhouse.core.errors import ChecksumMismatch, InUse, NotInStore, StoreError
from roundhouse.store.headers import read_model
from roundhouse.store.importing import import_model
from roundhouse.store.layout import Layout
from roundhouse.store.manifest import GGUF, File, Manifest, is_safe_path, read_manifest
from roundhouse.store.references import Reference
from roundhouse.store.repository import Revision, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def put(store: Store, tmp_path: Path, content: bytes, name: str = "m", revision: str = "") -> Revision:
    source = tmp_path / "content"
    source.write_bytes(content)
    sha256, size = store.blobs.add(source)
    return store.publish(Manifest(name, "q8_0", GGUF, (File("m.gguf", size, sha256),), revision=revision))


def test_a_revision_is_found_by_name_variant_and_the_beginning_of_its_id(store: Store, tmp_path: Path) -> None:
    made = put(store, tmp_path, b"one", revision="abcdef12")
    for text in ("m", "M:Q8_0", f"m@{made.manifest.id[:6]}", "m@abcdef"):
        assert store.find(Reference.parse(text)).manifest.id == made.manifest.id
    assert made.path.read_bytes() == b"one"
    assert made.path.resolve().name == hashlib.sha256(b"one").hexdigest()


def test_a_new_revision_is_current_and_the_old_one_can_be_had_back(store: Store, tmp_path: Path) -> None:
    first, second = put(store, tmp_path, b"one"), put(store, tmp_path, b"two")
    assert store.find(Reference("m")).manifest == second.manifest
    before, now = store.rollback(Reference("m"))
    assert (before.manifest.id, now.manifest.id) == (second.manifest.id, first.manifest.id)
    assert store.find(Reference("m")).path.read_bytes() == b"one"
    with pytest.raises(NotInStore, match="no earlier revision"):
        store.rollback(Reference("m"))


def test_what_was_rolled_back_stays_on_disk_and_can_be_named(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"one")
    second = put(store, tmp_path, b"two")
    store.rollback(Reference("m"))
    assert store.find(Reference("m", revision=second.manifest.id)).path.read_bytes() == b"two"


def test_the_same_content_is_kept_once(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"one", "a")
    put(store, tmp_path, b"one", "b")
    assert len(list(store.blobs.all())) == 1


def test_what_is_loaded_is_not_removed(store: Store, tmp_path: Path) -> None:
    made = put(store, tmp_path, b"one")
    lease = store.use(made)
    with pytest.raises(InUse, match="loaded by a running process"):
        store.remove(Reference("m"))
    assert made.path.exists()
    lease.release()
    assert [one.manifest.id for one in store.remove(Reference("m"))] == [made.manifest.id]
    assert store.revisions() == []


def test_removing_the_current_revision_goes_back_to_the_one_before(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"one")
    second = put(store, tmp_path, b"two")
    store.remove(Reference("m", revision=second.manifest.id))
    assert store.find(Reference("m")).path.read_bytes() == b"one"


def test_contents_go_only_when_no_revision_names_them(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"one", "a")
    put(store, tmp_path, b"one", "b")
    store.remove(Reference("a"))
    assert store.collect() == []
    store.remove(Reference("b"))
    assert [size for _, size in store.garbage()] == [3]
    assert [size for _, size in store.collect()] == [3]
    assert list(store.blobs.all()) == []


def test_nothing_is_collected_while_something_is_brought_in(store: Store, tmp_path: Path) -> None:
    writing = store.writing()
    with pytest.raises(InUse, match="under way"):
        store.collect()
    writing.release()
    assert store.collect() == []


def test_a_flipped_bit_is_found(store: Store, tmp_path: Path) -> None:
    made = put(store, tmp_path, b"one")
    store.verify(made)
    blob = made.path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"ona")
    with pytest.raises(ChecksumMismatch, match="its bytes have changed"):
        store.verify(made)


def test_a_store_of_a_newer_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "layout.json").write_text(json.dumps({"layout": 99}))
    with pytest.raises(StoreError, match="layout 99"):
        Store(tmp_path).prepare()
    with pytest.raises(StoreError, match="layout 99"):
        Store(tmp_path).revisions()


def test_a_folder_with_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        Store(tmp_path).prepare()


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").revisions() == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\\b", "", ".hidden/x", "a\0b"])
def test_no_file_of_a_model_lies_outside_its_folder(path: str, tmp_path: Path) -> None:
    assert not is_safe_path(path)
    (tmp_path / "manifest.json").write_bytes(Manifest("m", "v", GGUF, (File(path, 1, "0" * 64),)).encoded())
    with pytest.raises(StoreError):
        read_manifest(tmp_path / "manifest.json")


def _publish(root: Path, source: Path, number: int) -> None:
    store = Store(root)
    store.prepare()
    source.with_name(f"c{number}").write_bytes(b"content %d" % number)
    sha256, size = store.blobs.add(source.with_name(f"c{number}"))
    store.publish(Manifest("m", "v", GGUF, (File("m.gguf", size, sha256),)))


def test_processes_that_publish_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each change of the ledger is made under a lock: none overwrites another's."""
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_publish, args=(tmp_path / "store", tmp_path / "x", n)) for n in range(6)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(Store(tmp_path / "store").revisions("m")) == 6


def test_an_import_is_a_model_that_can_be_read(store: Store, demo_gguf: Path) -> None:
    done = import_model(store, demo_gguf, permit=lambda name, licence: None)
    assert done.revision.manifest.licence == "apache-2.0"
    assert read_model(done.revision.path).layers == read_model(demo_gguf).layers


def test_a_folder_of_safetensors_is_imported_without_what_runs_code(
    store: Store, demo_gguf: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo-copy"
    folder.mkdir()
    for path in (demo_gguf.parent / "safetensors").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "modeling_evil.py").write_text("import os")
    done = import_model(store, folder, permit=lambda name, licence: None)
    assert done.left_out == ("modeling_evil.py",)
    assert read_model(done.revision.path).layers == read_model(folder).layers
    assert not (done.revision.path / "modeling_evil.py").exists()


def test_a_web_page_is_not_imported(store: Store, tmp_path: Path) -> None:
    page = tmp_path / "m.gguf"
    page.write_text("<!doctype html><p>Sign in")
    with pytest.raises(StoreError, match="web page"):
        import_model(store, page, permit=lambda name, licence: None)
    assert list(store.blobs.all()) == []


def test_a_full_disk_leaves_what_was_there(
    store: Store, demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(store, tmp_path, b"one", "demo")
    monkeypatch.setattr("roundhouse.store.blobs.shutil.disk_usage", lambda path: type("Disk", (), {"free": 1000})())
    with pytest.raises(StoreError, match="are needed"):
        import_model(store, demo_gguf, name="demo", permit=lambda name, licence: None)
    assert store.find(Reference("demo")).manifest == first.manifest
    assert list(Layout(store.layout.root).partial.iterdir()) == []
