"""State machines as tables: two Enums and one dict, so that every state and every way between them is on one page."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["InvalidTransition", "Machine"]

State = TypeVar("State", bound=Enum)
Input = TypeVar("Input", bound=Enum)


class InvalidTransition(Exception):
    """An input arrived in a state whose row lacks it: a bug of the caller, never a condition to handle."""


class Machine(Generic[State, Input]):
    """An immutable transition table: (state, input) -> next state. The owner keeps the current state itself."""

    def __init__(self, initial: State, table: Mapping[tuple[State, Input], State]) -> None:
        self.initial = initial
        self._table = dict(table)

    def next(self, state: State, given: Input) -> State:
        """The state after `given` arrives in `state`; a pair that is not in the table raises `InvalidTransition`."""
        try:
            return self._table[state, given]
        except KeyError:
            raise InvalidTransition(f"{given.name} cannot arrive in state {state.name}") from None

    def allows(self, state: State, given: Input) -> bool:
        return (state, given) in self._table

    def diagram(self) -> str:
        """The table as a Mermaid state diagram, for the docs."""
        rows = [f"    [*] --> {self.initial.name}"]
        rows += [f"    {state.name} --> {after.name}: {given.name}" for (state, given), after in self._table.items()]
        return "\n".join(["stateDiagram-v2", *rows])
