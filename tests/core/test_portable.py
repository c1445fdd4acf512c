"""Every error of the tree comes out of another process as it went in."""

import dataclasses
from typing import Any

import msgspec
import pytest

from roundhouse.core import errors
from roundhouse.core.errors import AllProvidersFailed, Attempt, BadResponse, ConnectFailed, Died, Error, InvalidRequest
from roundhouse.core.portable import portable, restored

KINDS = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type) and issubclass(kind, Error)]


def _filled(kind: type[Error]) -> Error:
    """With a value of its own in every field."""
    values: dict[str, Any] = {"message": "what was wrong"}
    for field in dataclasses.fields(kind):
        default = field.default
        match default:
            case bool():
                values[field.name] = not default
            case int():
                values[field.name] = 7
            case float():
                values[field.name] = 1.25
            case str():
                values[field.name] = field.name
            case ():
                values[field.name] = (Attempt("t", "ok", "r", 1.0),) if field.name == "attempts" else ("a", "b")
    return kind(**values)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_out_as_itself_with_its_fields(kind: type[Error]) -> None:
    sent = _filled(kind)
    found = restored(msgspec.msgpack.decode(msgspec.msgpack.encode(portable(sent))))
    assert type(found) is kind
    assert dataclasses.asdict(found) == dataclasses.asdict(sent)
    assert str(found) == str(sent)


def test_the_cause_of_a_failure_of_all_crosses_with_it() -> None:
    sent = AllProvidersFailed(
        "all", attempts=(Attempt("a", "b", "c", 1.0),), cause=Died("x", log_tail=("l",), exit_status=-9)
    )
    found = restored(portable(sent))
    assert isinstance(found, AllProvidersFailed)
    assert isinstance(found.cause, Died)
    assert (found.cause.exit_status, found.attempts) == (-9, sent.attempts)


def test_a_class_that_is_not_of_the_tree_crosses_as_the_nearest_that_is() -> None:
    class OfOurOwn(InvalidRequest):
        pass

    assert type(restored(portable(OfOurOwn("no", param="p")))) is InvalidRequest


def test_an_error_of_a_newer_version_is_still_an_error() -> None:
    assert isinstance(restored({"kind": "NotThoughtOfYet", "message": "m"}), BadResponse)
    newer = {"kind": "ConnectFailed", "message": "m", "refused": True, "not_thought_of_yet": 1}
    assert dataclasses.asdict(restored(newer)) == dataclasses.asdict(ConnectFailed("m", refused=True))
