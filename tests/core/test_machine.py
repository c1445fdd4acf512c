from enum import Enum, auto

import pytest

from roundhouse.core.machine import InvalidTransition, Machine


class Light(Enum):
    RED = auto()
    GREEN = auto()


class Event(Enum):
    GO = auto()
    HALT = auto()


LIGHT: Machine[Light, Event] = Machine(
    Light.RED, {(Light.RED, Event.GO): Light.GREEN, (Light.GREEN, Event.HALT): Light.RED}
)


def test_a_pair_in_the_table_leads_to_its_state() -> None:
    assert LIGHT.next(LIGHT.initial, Event.GO) is Light.GREEN


def test_a_pair_that_is_not_in_the_table_raises_with_both_names() -> None:
    with pytest.raises(InvalidTransition, match="HALT cannot arrive in state RED"):
        LIGHT.next(Light.RED, Event.HALT)
    assert not LIGHT.allows(Light.RED, Event.HALT)


def test_the_diagram_shows_every_row() -> None:
    assert LIGHT.diagram().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> RED",
        "    RED --> GREEN: GO",
        "    GREEN --> RED: HALT",
    ]
