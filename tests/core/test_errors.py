import copy
import pickle

import pytest

from roundhouse.core import errors


def _all_kinds() -> list[type[errors.Error]]:
    found: list[type[errors.Error]] = []
    pending: list[type[errors.Error]] = [errors.Error]
    while pending:
        kind = pending.pop()
        found.append(kind)
        pending += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_the_tree_at_the_top_of_the_file_names_every_error() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in _all_kinds() if kind.__name__ not in drawn] == []
    assert sorted(kind.__name__ for kind in _all_kinds()) == sorted(set(errors.__all__) - {"Attempt"})


def test_codes_are_one_per_error() -> None:
    codes = [kind.code for kind in _all_kinds()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    "kind", [errors.InvalidRequest, errors.ContentRefused, errors.TemplateError, errors.ConfigError]
)
def test_a_callers_mistake_is_not_taken_to_another_candidate(kind: type[errors.Error]) -> None:
    assert not kind("x").failover


@pytest.mark.parametrize("kind", [errors.ConnectFailed, errors.TimedOut, errors.Died, errors.NoFit, errors.BadHeader])
def test_a_backends_failure_is(kind: type[errors.Error]) -> None:
    assert kind("x").failover


def test_facts_survive_copying_and_pickling() -> None:
    error = errors.ContextTooLong("too long", prompt_tokens=9, limit_tokens=5, target="t")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(twin), twin.prompt_tokens, twin.target) == ("too long", 9, "t")


def test_when_all_failed_it_is_a_runtime_error_that_lists_the_attempts() -> None:
    attempt = errors.Attempt("a", "connect_failed", "refused", 0.1)
    error = errors.AllProvidersFailed("no", attempts=(attempt,))
    assert isinstance(error, RuntimeError)
    assert error.attempts == (attempt,)
