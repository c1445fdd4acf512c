"""A conversation is at home at one replica, whoever asks; but nobody is sent more than his share."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from roundhouse.cluster.affinity import home_key, within_bound
from roundhouse.core.chat import ChatRequest, Message

TURNS = (Message("system", "s"), Message("user", "first"))


def test_all_turns_of_a_conversation_have_one_home_in_every_process() -> None:
    """`hash` would give another in each."""
    later = (*TURNS, Message("assistant", "a"), Message("user", "second"))
    key = home_key(ChatRequest(TURNS))
    assert home_key(ChatRequest(later)) == key
    code = (
        "from roundhouse.cluster.affinity import home_key; from roundhouse.core.chat import *;"
        "print(home_key(ChatRequest((Message('system', 's'), Message('user', 'first')))))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == key


def test_other_conversations_have_other_homes() -> None:
    """Not even if their texts are the same when joined."""
    other = (Message("system", "sf"), Message("user", "irst"))
    assert home_key(ChatRequest(TURNS)) != home_key(ChatRequest(other))


def test_the_home_serves_while_it_is_not_busier_than_the_others() -> None:
    assert within_bound(["a", "b", "c"], {"a": 0, "b": 0, "c": 0})[0] == "a"
    assert within_bound(["a", "b", "c"], {"a": 3, "b": 3, "c": 3})[0] == "a"
    assert within_bound(["a", "b", "c"], {"a": 6, "b": 1, "c": 2})[0] == "b"


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 50), min_size=1), st.data())
def test_everybody_is_tried_once_and_the_first_is_never_beyond_the_bound(
    loads: dict[int, int], data: st.DataObject
) -> None:
    ring = data.draw(st.permutations(list(loads)))
    order = within_bound(ring, loads)
    assert sorted(order) == sorted(ring)
    assert loads[order[0]] <= 1.25 * (sum(loads.values()) + 1) / len(loads)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200))
def test_whatever_the_homes_no_replica_gets_much_more_than_its_share(homes: list[int]) -> None:
    loads = dict.fromkeys(range(5), 0)
    for home in homes:
        ring = [*range(home, 5), *range(home)]
        loads[within_bound(ring, loads)[0]] += 1
    assert max(loads.values()) <= 1.25 * (len(homes) + 1) / 5 + 1
