"""The README's table of capabilities is that of the code."""

from roundhouse.testing.capabilities import renewed
from tests.test_readme import README


def test_the_table_is_up_to_date() -> None:
    assert renewed(README) == README, "run: make docs"
