"""Pulling from a hub that cuts, stalls, lies and limits: the right bytes end up in the store, or nothing does."""

import asyncio
import base64
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from roundhouse.core.errors import (
    BadHeader,
    ChecksumMismatch,
    DiskFull,
    DownloadFailed,
    InvalidRequest,
    LicenceRefused,
    StoreError,
)
from roundhouse.store.blobs import hash_file
from roundhouse.store.download import Fetched, Pace
from roundhouse.store.licences import LicencePolicy
from roundhouse.store.pull import Order, Pulled, pull
from roundhouse.store.references import Reference
from roundhouse.store.repository import Store
from tests.fakes.hub import Hub, running_hub

REPO = "acme/demo-gguf"
PART = 1 << 20
ANY = LicencePolicy()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def content(demo_gguf: Path) -> bytes:
    return demo_gguf.read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def permit(name: str, *licences: str, policy: LicencePolicy = ANY) -> None:
    for licence in licences:
        policy.check(name, licence)


def get(store: Store, order: Order | None = None, notes: list[Fetched] | None = None, **pace: Any) -> Pulled:
    order = order or Order("demo-x", REPO)
    pace = {"part_bytes": PART, "backoff_s": 0.01, "stall_s": 5.0, **pace}
    listen = (lambda event: None) if notes is None else notes.append
    return asyncio.run(pull(store, order, pace=Pace(**pace), permit=permit, listen=listen))


def test_a_model_comes_whole_with_its_commit_and_its_licence(hub: Hub, store: Store, content: bytes) -> None:
    commit = hub.push(REPO, {"demo-Q8_0.gguf": b"other", "demo-q4_k_m.gguf": content, "README.md": b"hello"})
    done = get(store)
    assert done.revision.path.read_bytes() == content
    manifest = done.revision.manifest
    assert (manifest.variant, manifest.revision, manifest.licence) == ("q4_k_m", commit, "apache-2.0")
    assert hub.served["demo-q4_k_m.gguf"] == len(content) + 1  # one byte to look at it
    assert list(store.layout.partial.iterdir()) == []


def test_what_is_there_is_not_fetched_again(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    assert get(store).fresh
    hub.served.clear()
    assert not get(store).fresh
    assert get(store, Order("another-name", REPO)).revision.path.read_bytes() == content
    assert hub.served == {}


def test_cut_connections_are_taken_up_where_they_ended(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    hub.faults.cut = 5
    notes: list[Fetched] = []
    assert get(store, notes=notes).revision.path.read_bytes() == content
    assert any("trying again" in event.note for event in notes)
    # What the hub wrote into a connection that it then closed may not have arrived; it is less than half a part.
    assert hub.served["demo-q4_k_m.gguf"] <= len(content) + 1 + 5 * PART


def test_a_part_that_stalls_is_asked_for_again(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    hub.faults.stall = 2
    assert get(store, stall_s=0.3).revision.path.read_bytes() == content


def test_a_hub_that_asks_to_wait_is_waited_for(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    hub.faults.wait_429 = 4
    notes: list[Fetched] = []
    assert get(store, notes=notes).revision.path.read_bytes() == content
    assert any("429" in event.note for event in notes)


def test_a_server_without_ranges_is_read_in_one_go(hub: Hub, store: Store, content: bytes) -> None:
    hub.push("plain/files", {"demo-q4_k_m.gguf": content})
    hub.faults.no_ranges = True
    done = get(store, Order("demo-x", url=f"{hub.url}/files/demo-q4_k_m.gguf"))
    assert done.revision.path.read_bytes() == content


def _first_then(hub: Hub, store: Store, content: bytes) -> bytes:
    """A first revision in the store, and a second on the hub, which the caller spoils."""
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    get(store)
    second = content[:-1] + bytes([content[-1] ^ 0xFF])
    hub.push(REPO, {"demo-q4_k_m.gguf": second})
    return second


def _still_first(store: Store, content: bytes) -> None:
    current = store.find(Reference("demo-x"))
    assert current.path.read_bytes() == content
    assert len(store.revisions()) == 1


def test_a_flipped_bit_is_refused_and_thrown_away(hub: Hub, store: Store, content: bytes) -> None:
    second = _first_then(hub, store, content)
    hub.faults.flip = {5_000_000}
    with pytest.raises(ChecksumMismatch, match="came damaged"):
        get(store)
    _still_first(store, content)
    hub.faults.flip = set()
    assert get(store).revision.path.read_bytes() == second


def test_a_web_page_is_refused(hub: Hub, store: Store, content: bytes) -> None:
    _first_then(hub, store, content)
    hub.faults.html = True
    with pytest.raises(DownloadFailed, match="web page"):
        get(store)
    _still_first(store, content)


@pytest.mark.parametrize("lie", [-1000, 1000])
def test_a_size_that_is_not_the_promised_one_is_refused(hub: Hub, store: Store, content: bytes, lie: int) -> None:
    _first_then(hub, store, content)
    hub.faults.size_lie = lie
    with pytest.raises(DownloadFailed, match="promised"):
        get(store)
    _still_first(store, content)


def test_a_hub_that_keeps_cutting_ends_in_an_error_and_the_next_pull_goes_on(
    hub: Hub, store: Store, content: bytes
) -> None:
    """A cut is forgiven as long as bytes come; a connection that brings none is given up after some tries."""
    second = _first_then(hub, store, content)
    hub.served.clear()
    hub.faults.wait_429 = 0
    hub.faults.cut = 1
    with pytest.raises(DownloadFailed, match="is kept"):
        get(store, tries=1, connections=1)
    _still_first(store, content)
    assert get(store).revision.path.read_bytes() == second
    assert hub.served["demo-q4_k_m.gguf"] <= len(second) + 2 + PART


def test_a_file_that_changes_while_it_is_fetched_is_not_mixed(hub: Hub, store: Store, content: bytes) -> None:
    hub.push("plain/files", {"demo-q4_k_m.gguf": content})
    order = Order("demo-x", url=f"{hub.url}/files/demo-q4_k_m.gguf")
    hub.faults.slow_s = 0.002
    changed = content[:-1] + b"x"

    def change(event: Fetched) -> None:
        hub.push("plain/files", {"demo-q4_k_m.gguf": changed})

    with pytest.raises(DownloadFailed, match="changed at its source"):
        asyncio.run(pull(store, order, pace=Pace(part_bytes=PART), permit=permit, listen=change))
    assert store.revisions() == []
    assert get(store, order).revision.path.read_bytes() == changed


def test_a_commit_is_one_even_when_the_branch_moves(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    hub.faults.slow_s = 0.001
    moved = content[:-1] + b"x"
    pace = Pace(part_bytes=PART)

    def move(event: Fetched) -> None:
        hub.push(REPO, {"demo-q4_k_m.gguf": moved})

    done = asyncio.run(pull(store, Order("demo-x", REPO), pace=pace, permit=permit, listen=move))
    assert done.revision.path.read_bytes() == content


def test_a_full_disk_is_said_and_changes_nothing(
    hub: Hub, store: Store, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = _first_then(hub, store, content)
    real = os.pwrite
    written = [0]

    def full(handle: int, data: Any, offset: int) -> int:
        written[0] += len(data)
        if written[0] > 4_000_000:
            raise OSError(28, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr("roundhouse.store.parts.os.pwrite", full)
    with pytest.raises(DiskFull, match="disk or the quota is full"):
        get(store)
    _still_first(store, content)
    monkeypatch.setattr("roundhouse.store.parts.os.pwrite", real)
    hub.served.clear()
    assert get(store).revision.path.read_bytes() == second
    assert hub.served["demo-q4_k_m.gguf"] < len(second) - 2_000_000


_ON_A_SMALL_DISK = """
import asyncio, sys
from pathlib import Path
from roundhouse.core.errors import DiskFull
from roundhouse.store.download import Pace
from roundhouse.store.pull import Order, pull
from roundhouse.store.references import Reference
from roundhouse.store.repository import Store

disk, store = Path(sys.argv[1]), Store(Path(sys.argv[1]) / "store")

def get(listen=lambda event: None, revision="main"):
    order = Order("demo-x", "acme/demo-gguf", revision)
    pace = Pace(part_bytes=1 << 20)
    return asyncio.run(pull(store, order, pace=pace, permit=lambda *a: None, listen=listen)).revision

first = get(revision=sys.argv[2])
print("first", first.path.stat().st_size)

def fill(event):
    if event.done > 2_000_000 and not (disk / "other").exists():
        with (disk / "other").open("wb", buffering=0) as other:  # somebody else takes the rest
            try:
                while True:
                    other.write(bytes(1 << 12))
            except OSError:
                pass

try:
    get(fill)
except DiskFull as error:
    print("full", error)
assert store.find(Reference("demo-x")).manifest.id == first.manifest.id
store.verify(first)
(disk / "other").unlink()
(disk / "ballast").write_bytes(bytes(100 << 20))
try:
    get()
except DiskFull as error:
    print("before", error)
(disk / "ballast").unlink()
fill(type("Event", (), {"done": 1 << 30}))
try:  # to the last byte, and of a size that no listing told
    asked = Order("demo-y", url=sys.argv[3])
    asyncio.run(pull(store, asked, pace=Pace(), permit=lambda *a: None, listen=lambda event: None))
except DiskFull as error:
    print("to the last byte", error)
(disk / "other").unlink()
print("second", get().manifest.id != first.manifest.id)
"""


def test_a_disk_that_is_really_full_ends_in_one_error_and_the_next_pull_goes_on(
    hub: Hub, content: bytes, tmp_path: Path
) -> None:
    """A file system of 120 MiB: it fills while the second revision comes; then it is too full to begin at all."""
    first = hub.push(REPO, {"demo-q4_k_m.gguf": content})
    second = content[:-1] + bytes([content[-1] ^ 0xFF])
    hub.push(REPO, {"demo-q4_k_m.gguf": second})
    inside = f'mount -t tmpfs -o size=120m none "{tmp_path}" && exec "$@"'
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here, not even in a namespace of our own")
    hub.push("plain/files", {"demo-q4_k_m.gguf": content[:-1] + b"y"})
    plain = f"{hub.url}/files/demo-q4_k_m.gguf"
    command = [*mounted, sys.executable, "-c", _ON_A_SMALL_DISK, str(tmp_path), first, plain]
    hub.served.clear()
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_ENDPOINT": hub.url})
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert said[0] == f"first {len(content)}"
    assert said[1].startswith("full ")
    assert "is full" in said[1]
    assert said[2].startswith("before ")
    assert said[3].startswith("to the last byte ")
    assert said[4] == "second True"
    on_its_way = 4 * PART + 5  # a part for each connection when the disk was full, and a byte to look at each file
    assert hub.served["demo-q4_k_m.gguf"] <= 2 * len(content) + on_its_way, "what had come was not fetched again"


def test_what_is_no_model_is_not_published(hub: Hub, store: Store) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": os.urandom(200_000)})
    with pytest.raises(BadHeader):
        get(store)
    assert store.revisions() == []


def test_a_listing_whose_hash_is_a_path_is_refused(
    hub: Hub, store: Store, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders are named by hashes, and a download clears its own: no hub may choose which."""
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    row = hub._row

    def lying(name: str, body: bytes) -> dict[str, Any]:
        told = row(name, body)
        told["lfs"]["sha256"] = str(mine)
        return told

    monkeypatch.setattr(hub, "_row", lying)
    with pytest.raises(DownloadFailed, match="listing is damaged"):
        get(store)
    assert (mine / "precious").exists()


def test_files_whose_names_lead_out_are_left_out_and_named(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"../../evil-q4_k_m.gguf": content})
    with pytest.raises(StoreError, match=r"no GGUF|neither GGUF") as told:
        get(store)
    assert "evil-q4_k_m.gguf" in str(told.value)


def test_an_address_names_a_file_and_no_way_to_it(hub: Hub, store: Store, content: bytes, tmp_path: Path) -> None:
    hub.push("plain/files", {"../../../x-q4_k_m.gguf": content})
    get(store, Order("demo-x", url=f"{hub.url}/files/..%2f..%2f..%2fx-q4_k_m.gguf"))
    assert [file.path for file in store.find(Reference("demo-x")).manifest.files] == ["x-q4_k_m.gguf"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    with pytest.raises(InvalidRequest, match="names no file"):
        get(store, Order("demo-x", url=f"{hub.url}/files/.."))


def test_a_login_in_an_address_is_sent_and_kept_nowhere(
    hub: Hub, store: Store, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("plain/files", {"demo-q4_k_m.gguf": content})
    seen: list[str | None] = []
    send = hub._send

    async def noting(request: web.Request, *rest: Any) -> web.StreamResponse:
        seen.append(request.headers.get("authorization"))
        return await send(request, *rest)

    monkeypatch.setattr(hub, "_send", noting)
    address = hub.url.replace("://", "://ann:s%65cret@") + "/files/demo-q4_k_m.gguf"
    manifest = get(store, Order("demo-x", url=address)).revision.manifest
    assert set(seen) == {"Basic " + base64.b64encode(b"ann:secret").decode()}
    assert manifest.source == f"{hub.url}/files/demo-q4_k_m.gguf"


def test_a_licence_that_would_write_on_the_terminal_is_shown_as_text(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content}, licence="\x1b[2JMIT\n" * 50)
    licence = get(store).revision.manifest.licence
    assert licence.startswith("?[2jmit?")
    assert licence.isprintable()
    assert len(licence) <= 80


def test_a_gated_repository_says_what_to_do(
    hub: Hub, store: Store, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    hub.gated.add(REPO)
    with pytest.raises(DownloadFailed, match="HF_TOKEN") as told:
        get(store)
    assert told.value.status == 401
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert get(store).revision.path.read_bytes() == content


def test_what_is_not_there_is_said(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    with pytest.raises(DownloadFailed, match="no such repository"):
        get(store, Order("x", "acme/nothing"))
    with pytest.raises(DownloadFailed, match="no revision v9"):
        get(store, Order("x", REPO, "v9"))
    with pytest.raises(StoreError, match="Q4_K_M"):
        get(store, Order("x", REPO, quantisation="Q2_K"))


def test_a_licence_is_looked_at_before_a_byte_is_fetched(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content}, licence="gemma")
    policy = LicencePolicy(require_commercial=True)
    with pytest.raises(LicenceRefused, match="require_commercial"):
        asyncio.run(
            pull(store, Order("x", REPO), pace=Pace(), permit=partial(permit, policy=policy), listen=lambda event: None)
        )
    assert hub.served == {}


async def test_a_cancelled_pull_ends_at_once_writes_nothing_more_and_goes_on_later(
    hub: Hub, store: Store, content: bytes
) -> None:
    """Every connection is silent, as a hub is that hangs: nobody waits for it."""
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    hub.faults.stall = 4
    notes: list[Fetched] = []
    pace = Pace(part_bytes=PART, stall_s=60.0)
    halves = asyncio.Event()

    def listen(event: Fetched) -> None:
        notes.append(event)
        if event.done >= 2 * PART:  # of each of four parts, half
            halves.set()

    pulling = asyncio.create_task(pull(store, Order("demo-x", REPO), pace=pace, permit=permit, listen=listen))
    await asyncio.wait_for(halves.wait(), 30)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(pulling, 10)
    (begun,) = store.layout.partial.iterdir()
    left = (begun / "progress").read_bytes()
    hub.served.clear()
    hub.faults.stall = 0
    assert (begun / "progress").read_bytes() == left
    done = await pull(store, Order("demo-x", REPO), pace=pace, permit=permit, listen=listen)
    assert done.revision.path.read_bytes() == content
    assert hub.served["demo-q4_k_m.gguf"] <= len(content) - 2 * PART + 1


def _child(store: Store, hub: Hub, part: int = PART) -> subprocess.Popen[bytes]:
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from roundhouse.store.pull import *; from roundhouse.store.download import Pace\n"
        "from roundhouse.store.repository import Store\n"
        f"asyncio.run(pull(Store(Path({str(store.layout.root)!r})), Order('demo-x', {REPO!r}),"
        f" pace=Pace(part_bytes={part}), permit=lambda *a: None, listen=lambda e: None))"
    )
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "HF_ENDPOINT": hub.url})


def test_a_pull_of_300_mb_that_is_killed_ten_times_finishes_and_fetches_little_twice(
    hub: Hub, store: Store, content: bytes
) -> None:
    """SIGKILL at random moments; another process goes on. What a kill loses is on its way: one part at most."""
    big = content + b"".join(random.Random(seed).randbytes(29 << 20) for seed in range(10))
    hub.push(REPO, {"demo-q4_k_m.gguf": big})
    chance = random.Random()
    part = 4 * PART
    for kill in range(10):
        hub.faults.slow_s = 0.001
        child = _child(store, hub, part)
        target = hub.served["demo-q4_k_m.gguf"] + chance.randrange(1 << 20, 26 << 20)
        while hub.served["demo-q4_k_m.gguf"] < target and child.poll() is None:
            time.sleep(0.002)
        assert child.poll() is None, f"it ended before kill {kill + 1}"
        child.send_signal(signal.SIGKILL)
        child.wait()
    hub.faults.slow_s = 0.0
    assert _child(store, hub, part).wait() == 0
    done = store.find(Reference("demo-x"))
    assert hash_file(done.path) == hashlib.sha256(big).hexdigest()
    assert hub.served["demo-q4_k_m.gguf"] <= len(big) + 11 + 10 * part


def test_two_processes_do_the_work_once(hub: Hub, store: Store, content: bytes) -> None:
    hub.push(REPO, {"demo-q4_k_m.gguf": content})
    hub.faults.slow_s = 0.002
    children = [_child(store, hub), _child(store, hub)]
    assert [child.wait() for child in children] == [0, 0]
    assert hub.served["demo-q4_k_m.gguf"] == len(content) + 1
    assert store.find(Reference("demo-x")).path.read_bytes() == content
