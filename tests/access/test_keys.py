"""Keys are kept as hashes, shown once, and count until they are revoked or expire."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.access.caller import ANYONE, Caller
from roundhouse.access.keys import Key, KeyFile, KeyLimits, Role, digest_of, new_key
from roundhouse.access.ring import KeyRing
from roundhouse.core.errors import ConfigError, KeyRejected, NotAllowed, RateLimited


def _file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "deep" / "keys.json")


def test_a_secret_is_never_in_the_file_and_the_file_is_its_owners(tmp_path: Path) -> None:
    file = _file(tmp_path)
    key, secret = new_key("ann", Role.CLIENT, routes=("fast",), limits=KeyLimits(1, 2, 3))
    file.add(key)
    text = file.path.read_text()
    assert secret not in text
    assert secret.split("-", 2)[2] not in text
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    assert file.read() == (key,)


def test_names_are_unique_and_what_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    file = _file(tmp_path)
    file.add(new_key("ann", Role.CLIENT)[0])
    with pytest.raises(ConfigError, match="already"):
        file.add(new_key("ann", Role.ADMIN)[0])
    with pytest.raises(ConfigError, match="there are: ann"):
        file.revoke("bob")
    assert file.revoke("ann").name == "ann"
    assert file.read() == ()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{"id": "x"}]}', "[" * 100_000, "\x00\xff"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    file = _file(tmp_path)
    file.path.parent.mkdir()
    file.path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="keys"):
        file.add(new_key("ann", Role.CLIENT)[0])
    assert file.path.read_bytes() == text.encode("latin-1")


def _add(path: Path, name: str) -> None:
    KeyFile(path).add(new_key(name, Role.CLIENT)[0])


def test_processes_that_make_keys_at_once_lose_none(tmp_path: Path) -> None:
    file = _file(tmp_path)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add, args=(file.path, f"k{n}")) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {key.name for key in file.read()} == {f"k{n}" for n in range(8)}


def test_a_disk_that_is_full_leaves_the_old_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(tmp_path)
    file.add(new_key("ann", Role.CLIENT)[0])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        file.add(new_key("bob", Role.CLIENT)[0])
    assert [key.name for key in file.read()] == ["ann"]
    assert sorted(one.name for one in file.path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_keys_anyone_may_ask_and_with_the_first_one_nobody_else(tmp_path: Path) -> None:
    file, clock = _file(tmp_path), _Clock()
    ring = KeyRing(file, clock=clock)
    assert not ring.asks()
    key, secret = new_key("ann", Role.ADMIN)
    file.add(key)
    clock.now = 2.0
    assert ring.asks()
    assert ring.caller(secret).name == "ann"
    for wrong in (None, "", "x", secret[:-1], secret + "x", key.id, key.digest, "\udcff"):
        with pytest.raises(KeyRejected):
            ring.caller(wrong)


def test_a_revoked_key_stops_counting_and_the_door_stays_shut(tmp_path: Path) -> None:
    file, clock = _file(tmp_path), _Clock()
    key, secret = new_key("ann", Role.CLIENT)
    file.add(key)
    ring = KeyRing(file, clock=clock)
    assert ring.caller(secret) is not ANYONE
    file.revoke("ann")
    clock.now = 2.0
    assert ring.asks()
    with pytest.raises(KeyRejected):
        ring.caller(secret)
    file.path.unlink()
    clock.now = 4.0
    assert ring.asks()


def test_a_file_that_breaks_while_the_server_runs_changes_nothing(tmp_path: Path) -> None:
    file, clock = _file(tmp_path), _Clock()
    key, secret = new_key("ann", Role.CLIENT)
    file.add(key)
    ring = KeyRing(file, clock=clock)
    file.path.write_text("{")
    clock.now = 2.0
    assert ring.asks()
    assert ring.caller(secret).name == "ann"


def test_an_expired_key_is_refused_in_the_same_words_as_a_wrong_one(tmp_path: Path) -> None:
    file = _file(tmp_path)
    key, secret = new_key("ann", Role.CLIENT, expires=100.0)
    file.add(key)
    ring = KeyRing(file, wall_clock=lambda: 101.0)
    with pytest.raises(KeyRejected) as expired:
        ring.caller(secret)
    with pytest.raises(KeyRejected) as wrong:
        ring.caller("rh-nothing")
    assert str(expired.value) == str(wrong.value)


def test_what_a_key_has_used_up_survives_a_change_of_other_keys(tmp_path: Path) -> None:
    file, clock = _file(tmp_path), _Clock()
    key, secret = new_key("ann", Role.CLIENT, limits=KeyLimits(requests_per_minute=1))
    file.add(key)
    ring = KeyRing(file, clock=clock)
    ring.caller(secret).enter(0.0)
    file.add(new_key("bob", Role.CLIENT)[0])
    clock.now = 2.0
    assert ring.asks()
    with pytest.raises(RateLimited):
        ring.caller(secret).enter(2.0)


def test_configured_keys_count_beside_those_of_the_file(tmp_path: Path) -> None:
    own = Key("ci", "ci", Role.CLIENT, digest_of("x" * 20))
    assert KeyRing(_file(tmp_path), [own]).caller("x" * 20).name == "ci"


def _caller(**limits: int) -> Caller:
    return Caller("ann", Role.CLIENT, limits=KeyLimits(**limits))


def test_rates_refill_and_say_when_to_come_back() -> None:
    caller = _caller(requests_per_minute=2)
    caller.enter(0.0)
    caller.enter(0.0)
    with pytest.raises(RateLimited) as caught:
        caller.enter(0.0)
    assert caught.value.limit == "requests"
    assert caught.value.retry_after_s == pytest.approx(30.0)
    caller.enter(30.0)


def test_tokens_may_be_overdrawn_once_and_are_then_waited_for() -> None:
    caller = _caller(tokens_per_minute=60)
    caller.enter(0.0)
    caller.spend(90, 0.0)
    with pytest.raises(RateLimited) as caught:
        caller.enter(0.0)
    assert caught.value.retry_after_s == pytest.approx(31.0)
    caller.enter(31.5)


def test_requests_at_once_are_bounded_and_given_back() -> None:
    caller = _caller(concurrent=1)
    caller.enter(0.0)
    with pytest.raises(RateLimited):
        caller.enter(0.0)
    caller.leave()
    caller.enter(0.0)


async def test_one_request_for_several_answers_counts_as_so_many() -> None:
    caller = _caller(concurrent=3, requests_per_minute=5)
    caller.enter(0.0)
    async with caller.more(2, 0.0):
        assert caller.running == 3
        with pytest.raises(RateLimited) as busy:
            caller.enter(0.0)
    assert busy.value.limit == "concurrent"
    assert caller.running == 1
    async with caller.more(2, 0.0):
        assert caller.running == 3
    with pytest.raises(RateLimited) as used_up:
        async with caller.more(2, 12.0):
            pass
    assert used_up.value.limit == "requests"
    with pytest.raises(NotAllowed, match="this asks for 4 answers"):
        async with caller.more(3, 99.0):
            pass


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 20))
def test_no_more_than_the_rate_gets_through_in_any_minute(gaps: list[float], rate: int) -> None:
    caller, now, let_in = _caller(requests_per_minute=rate), 0.0, []
    for gap in gaps:
        now += gap
        try:
            caller.enter(now)
        except RateLimited:
            continue
        let_in.append(now)
    for start in let_in:
        # A full bucket may be emptied at once, and a minute refills it once.
        assert sum(start <= at < start + 60 for at in let_in) <= 2 * rate


def test_a_key_is_held_to_its_routes() -> None:
    caller = Caller("ann", Role.CLIENT, frozenset({"fast"}))
    caller.check_route("fast")
    with pytest.raises(NotAllowed, match="it may use fast"):
        caller.check_route("careful")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = _file(tmp_path)
    key, _ = new_key("ünï", Role.ADMIN, routes=("a", "b"), limits=KeyLimits(1, 2, 3), expires=5.0, now=1.0)
    file.add(key)
    assert file.read()[0] == key
    assert json.loads(file.path.read_text())["version"] == 1
