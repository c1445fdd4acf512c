"""The store: what is published is whole, what is in use stays, what is damaged is said."""

import contextlib
import hashlib
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from roundhouse.core.errors import ChecksumMismatch, DiskFull, InUse, NotInStore, StoreError
from roundhouse.store.headers import read_model
from roundhouse.store.importing import import_model
from roundhouse.store.layout import Layout
from roundhouse.store.manifest import GGUF, File, Manifest, is_safe_path, read_manifest
from roundhouse.store.references import Reference
from roundhouse.store.repository import Store
from roundhouse.store.revisions import Revision


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def put(
    store: Store, tmp_path: Path, content: bytes, name: str = "m", revision: str = "", source: Path | None = None
) -> Revision:
    source = source or tmp_path / "content"
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


def test_a_full_disk_can_be_cleared(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What removes a model writes nothing."""
    put(store, tmp_path, b"one")
    put(store, tmp_path, b"two")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roundhouse.store.repository.write_atomically", full)
    with pytest.raises(DiskFull):
        store.rollback(Reference("m"))
    assert len(store.remove(Reference("m"))) == 2
    assert store.survey() == []
    assert len(store.collect()) == 2


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


def damage(revision: Revision) -> None:
    blob = revision.path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"ona")


def test_damaged_contents_can_be_put_aside_and_brought_anew(store: Store, tmp_path: Path) -> None:
    """They go with the next collection; until then nothing of them is lost."""
    made = put(store, tmp_path, b"one")
    damage(made)
    assert store.set_damage_aside(made) == ["m.gguf"]
    assert not store.blobs.has(hashlib.sha256(b"one").hexdigest(), 3)
    put(store, tmp_path, b"one")
    store.verify(made)
    assert store.set_damage_aside(made) == []
    assert [path.name.split("-")[0] for path, _ in store.collect()] == ["damaged"]


def test_a_link_that_leads_elsewhere_is_found_and_put_right(store: Store, tmp_path: Path) -> None:
    made = put(store, tmp_path, b"one")
    (tmp_path / "other").write_bytes(b"one")
    made.path.unlink()
    made.path.symlink_to(tmp_path / "other")
    with pytest.raises(ChecksumMismatch, match="does not lead to its content"):
        store.verify(made)
    put(store, tmp_path, b"one")
    store.verify(made)


def test_a_damaged_manifest_hides_no_other_revision(store: Store, tmp_path: Path) -> None:
    good, bad = put(store, tmp_path, b"one", "good"), put(store, tmp_path, b"two", "bad")
    (bad.folder / "manifest.json").write_text("{")
    assert [one.manifest.id for one in store.revisions()] == [good.manifest.id]
    (damaged,) = store.damaged()
    assert damaged.reference == bad.reference
    with pytest.raises(StoreError, match="models pull bad"):
        store.find(Reference("bad"))
    with pytest.raises(StoreError, match="nothing is collected"):
        store.collect()
    assert put(store, tmp_path, b"two", "bad").path.read_bytes() == b"two"
    assert store.damaged() == []


def test_a_damaged_revision_can_be_removed(store: Store, tmp_path: Path) -> None:
    bad = put(store, tmp_path, b"two", "bad")
    (bad.folder / "manifest.json").write_text("{")
    assert len(store.remove(Reference("bad", revision=bad.manifest.id))) == 1
    assert store.survey() == []
    assert [size for _, size in store.collect()] == [3]


@pytest.mark.parametrize("ledger", ["", "[]", '{"current": "../../good/q8_0/x"}'])
def test_a_ledger_that_is_damaged_is_said_and_written_anew(store: Store, tmp_path: Path, ledger: str) -> None:
    made = put(store, tmp_path, b"one")
    (made.folder.parent / "current.json").write_text(ledger)
    with pytest.raises(StoreError, match=r"current\.json"):
        store.rollback(Reference("m"))
    assert [one.current for one in store.revisions()] == [False]
    assert put(store, tmp_path, b"one").current
    assert store.find(Reference("m")).manifest.id == made.manifest.id


def test_a_manifest_of_another_revision_is_not_taken_for_this_one(store: Store, tmp_path: Path) -> None:
    """Whoever exchanges it exchanges what is loaded."""
    first, second = put(store, tmp_path, b"one"), put(store, tmp_path, b"two")
    (first.folder / "manifest.json").write_bytes((second.folder / "manifest.json").read_bytes())
    (damaged,) = store.damaged()
    assert (damaged.id, "of another revision" in damaged.said) == (first.manifest.id, True)


def test_what_a_kill_left_half_made_is_garbage(store: Store, tmp_path: Path) -> None:
    made = put(store, tmp_path, b"one")
    (made.folder.parent / ".0123456789abcdef" / "files").mkdir(parents=True)
    removed = made.folder.parent / ("0" * 16)
    (removed / "files").mkdir(parents=True)
    assert {path.name for path, _ in store.collect()} == {".0123456789abcdef", "0" * 16}
    assert store.find(Reference("m")).path.read_bytes() == b"one"


def test_a_store_that_cannot_be_written_serves_what_is_in_it(store: Store, tmp_path: Path) -> None:
    """As a volume that is mounted read-only; nobody can remove anything there."""
    made = put(store, tmp_path, b"one")
    inside = (
        f'mount --bind "{store.layout.root}" "{store.layout.root}" && mount -o remount,bind,ro "{store.layout.root}"'
    )
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{inside} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here, not even in a namespace of our own")
    code = (
        "import sys; from pathlib import Path; from roundhouse.core.errors import StoreError\n"
        "from roundhouse.store.repository import Store; from roundhouse.store.references import Reference\n"
        "store = Store(Path(sys.argv[1])); one = store.find(Reference('m'))\n"
        "print(store.use(one), one.path.read_bytes())\n"
        "try: store.remove(Reference('m'))\n"
        "except StoreError as error: print(error)"
    )
    ended = subprocess.run([*mounted, sys.executable, "-c", code, store.layout.root], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    used, said = ended.stdout.splitlines()
    assert used == "None b'one'"
    assert "Read-only file system" in said
    assert made.path.exists()


def test_a_store_of_a_newer_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "layout.json").write_text(json.dumps({"layout": 99}))
    with pytest.raises(StoreError, match="layout 99"):
        Store(tmp_path).prepare()
    with pytest.raises(StoreError, match="use the newer Roundhouse"):
        Store(tmp_path).revisions()
    assert [path.name for path in tmp_path.iterdir() if path.name != "locks"] == ["layout.json"]


@pytest.mark.parametrize("marker", ['{"layout": 0}', '{"layout": true}', '{"layout": "1"}', "[]", "{", ""])
def test_a_layout_that_no_version_wrote_is_refused(tmp_path: Path, marker: str) -> None:
    (tmp_path / "layout.json").write_text(marker)
    with pytest.raises(StoreError, match=r"layout\.json"):
        Store(tmp_path).prepare()


def test_a_folder_with_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        Store(tmp_path).prepare()


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").revisions() == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a\\b",
        "",
        ".hidden/x",
        "a\0b",
        "a\nb",
        "\x1b[2Jred",
        "n" * 256,
        "a/" * 600 + "b",
    ],
)
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


def _disturb(root: Path, number: int, rounds: int) -> None:
    """Publish, load, remove, verify and collect, as it comes; leaves with 1 at what no user should see."""
    chance, store, source = random.Random(number), Store(root), root.with_name(f"c{number}")
    store.prepare()
    for _ in range(rounds):
        name, content = f"m{chance.randrange(2)}", b"content %d" % chance.randrange(3)
        with contextlib.suppress(InUse, NotInStore):
            match chance.choice("ppplrvc"):
                case "p":
                    writing = store.writing()
                    put(store, root.parent, content, name, source=source)
                    writing.release()
                case "l":
                    revision = store.find(Reference(name))
                    lease = store.use(revision)
                    assert revision.path.read_bytes().startswith(b"content")
                    assert lease is not None
                    lease.release()
                case "r":
                    store.remove(Reference(name))
                case "v":
                    for one in store.revisions():
                        store.verify(one)
                case "c":
                    store.collect()


def test_processes_that_publish_load_remove_and_collect_at_once_see_whole_revisions_or_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_disturb, args=(tmp_path / "store", n, 60)) for n in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0, 0]


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


def test_a_folder_of_the_hubs_cache_is_imported_through_its_links(
    store: Store, demo_gguf: Path, tmp_path: Path
) -> None:
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    for place in (snapshot, blobs):
        place.mkdir(parents=True)
    for path in (demo_gguf.parent / "safetensors").iterdir():
        (blobs / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    done = import_model(store, snapshot, name="cached", permit=lambda name, licence: None)
    assert read_model(done.revision.path).layers == read_model(snapshot).layers


def test_a_text_that_is_a_link_out_of_its_folder_is_not_imported(store: Store, demo_gguf: Path, tmp_path: Path) -> None:
    """Who packed the folder could have any file copied, to where everybody may read it."""
    folder = tmp_path / "packed"
    shutil.copytree(demo_gguf.parent / "safetensors", folder)
    (tmp_path / "private").write_text("key")
    (folder / "notice.txt").symlink_to(tmp_path / "private")
    with pytest.raises(StoreError, match="outside the folder"):
        import_model(store, folder, permit=lambda name, licence: None)
    assert list(store.blobs.all()) == []


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
