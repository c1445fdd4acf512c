"""Keys and limits are those of all servers, whichever kind of place they lie in, and go on counting without it."""

import asyncio
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeAlias

import pytest

from roundhouse.access.keys import Key, KeyFile, KeyLimits, Role, new_key
from roundhouse.access.ring import KeyRing
from roundhouse.access.sharing import Sharing, mirror
from roundhouse.access.table import KeyTable, Used
from roundhouse.core.errors import ConfigError, KeyRejected, RateLimited
from roundhouse.database import Address, Place

Opened: TypeAlias = Callable[[], KeyTable]


@pytest.fixture
def opened(place: Place) -> Iterator[Opened]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(KeyTable(place)))


def _key(name: str = "ann", **limits: int) -> tuple[Key, str]:
    return new_key(name, Role.CLIENT, routes=("a", "b"), limits=KeyLimits(**limits), expires=5e9, now=1.0)


def test_what_is_made_is_read_back_once_and_is_gone_when_revoked(opened: Opened) -> None:
    table, other = opened(), opened()
    key, _ = _key("ünï", requests_per_minute=1, tokens_per_minute=2, concurrent=3)
    before = other.changes()
    table.add(key)
    assert other.read() == (key,)
    assert other.changes() != before
    with pytest.raises(ConfigError, match="already"):
        other.add(_key("ünï")[0])
    with pytest.raises(ConfigError, match="there are: ünï"):
        other.revoke("bob")
    assert other.revoke(key.id) == key
    assert table.read() == ()


def test_what_several_servers_use_is_taken_off_one_level_which_refills(opened: Opened) -> None:
    one, two = opened(), opened()
    limits = KeyLimits(requests_per_minute=600, tokens_per_minute=6000)
    one.exchange("one", {"d": Used(limits, requests=100, tokens=1000)})
    level = two.exchange("two", {"d": Used(limits, requests=50, tokens=7000)})["d"]
    assert level.requests == pytest.approx(450, abs=20)  # it refills by ten a second meanwhile
    assert level.tokens == pytest.approx(-2000, abs=200)
    assert one.exchange("one", {})["d"].requests == pytest.approx(450, abs=20)


def test_what_runs_elsewhere_is_known_until_its_server_leaves(opened: Opened) -> None:
    one, two = opened(), opened()
    used = {"d": Used(KeyLimits(concurrent=5), running=3)}
    assert one.exchange("one", used)["d"].elsewhere == 0
    assert two.exchange("two", {})["d"].elsewhere == 3
    one.leave("one")
    assert two.exchange("two", {})["d"].elsewhere == 0


async def _eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


class _Servers:
    """Rings that share one place, each with a copy of its own."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.running: list[Sharing] = []

    def start(self, number: int) -> KeyRing:
        copy = KeyFile(self.folder / str(number) / "keys.json")
        ring = KeyRing(copy, copied=True)
        self.running.append(Sharing(KeyTable(self.place, limit_s=2.0), copy, ring))
        self.running[-1].start()
        return ring

    async def __aenter__(self) -> "_Servers":
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self.running:
            await one.aclose()


def _accepted(ring: KeyRing, secret: str) -> bool:
    ring.asks()
    try:
        ring.caller(secret)
    except KeyRejected:
        return False
    return True


async def test_a_key_counts_on_every_server_and_its_limits_hold_over_all(place: Place, tmp_path: Path) -> None:
    key, secret = _key(requests_per_minute=20, concurrent=8)
    async with _Servers(place, tmp_path) as servers:
        one, two = servers.start(1), servers.start(2)
        assert one.asks()  # nobody knows yet whether there are keys
        await _eventually(lambda: not one.asks())
        with closing(KeyTable(place)) as table:
            table.add(key)
            await _eventually(lambda: _accepted(one, secret) and _accepted(two, secret))
            now = one._clock()
            for _ in range(6):
                one.caller(secret).enter(now)
            await _eventually(lambda: two.caller(secret).elsewhere == 6)
            two.caller(secret).enter(two._clock())
            two.caller(secret).enter(two._clock())
            with pytest.raises(RateLimited, match="requests at once"):
                two.caller(secret).enter(two._clock())
            for _ in range(6):
                one.caller(secret).leave()
            await _eventually(lambda: two.caller(secret).elsewhere == 0)
            let_in = 0
            with pytest.raises(RateLimited, match="requests a minute"):
                for _ in range(30):
                    two.caller(secret).enter(two._clock())
                    two.caller(secret).leave()
                    let_in += 1
            assert 12 <= let_in <= 14  # of 20, eight are used up; it refills by one in three seconds
            await _eventually(lambda: one.caller(secret)._requests.level < 2)
            table.revoke("ann")
            await _eventually(lambda: not _accepted(one, secret) and not _accepted(two, secret))
    assert stat.S_IMODE((tmp_path / "1" / "keys.json").stat().st_mode) == 0o600
    assert secret not in (tmp_path / "1" / "keys.json").read_text()


def test_a_damaged_copy_is_renewed(place: Place, tmp_path: Path) -> None:
    copy = KeyFile(tmp_path / "keys.json")
    copy.path.write_text("{")
    with closing(KeyTable(place)) as table:
        table.add(_key()[0])
        mirror(table, copy)
    assert [key.name for key in copy.read()] == ["ann"]


async def test_without_the_database_known_keys_go_on_counting_and_what_was_used_is_told_later(
    tmp_path: Path,
) -> None:
    """The address is one where nobody listens; then the same ring meets a place that works."""
    away = Address("postgresql://nobody@127.0.0.1:9/none", "secret")
    key, secret = _key(requests_per_minute=10)
    servers = _Servers(away, tmp_path)
    KeyFile(tmp_path / "1" / "keys.json").replace((key,))
    ring = servers.start(1)
    ring.caller(secret).enter(ring._clock())
    sharing = servers.running[0]
    await _eventually(lambda: sharing._away)
    assert _accepted(ring, secret)
    await sharing.aclose()
    assert ring.caller(secret).used_requests == 1
    later = Sharing(KeyTable(tmp_path / "keys.sqlite"), KeyFile(tmp_path / "other.json"), ring)
    later.start()
    await _eventually(lambda: ring.caller(secret).used_requests == 0)
    await later.aclose()
