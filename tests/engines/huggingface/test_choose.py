"""Each row of a batch is chosen as its own request asks, whatever else is in the batch, and by the right odds."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from roundhouse.engines.huggingface.choose import Chooser, gumbel

VOCABULARY = 50


def _request(name: str = "r", length: int = 5, **asked: Any) -> Any:
    state = SimpleNamespace(
        request_id=name, initial_tokens=[0] * length, generated_tokens=[], logit_processor_kwargs=asked
    )
    return SimpleNamespace(state=state, has_new_token=True)


def _choose(chooser: Chooser, scores: torch.Tensor, requests: list[Any]) -> list[int]:
    storage = torch.zeros(chooser.tensors_required, 64, dtype=torch.int32)
    chooser.fill_defaults(storage)
    arguments = chooser.prepare_tensor_args(requests, storage)
    chosen: list[int] = chooser(torch.zeros(len(requests)), scores, arguments).argmax(-1).tolist()
    return chosen


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3


def test_temperature_zero_takes_the_likeliest_beside_others_that_sample(scores: torch.Tensor) -> None:
    requests = [_request(), _request(temperature=1.5, seed=1), _request(temperature=0.0), _request(temperature=9.0)]
    chosen = _choose(Chooser(), scores, requests)
    assert [chosen[0], chosen[2]] == [int(scores[0].argmax()), int(scores[2].argmax())]


def test_a_choice_does_not_depend_on_the_rest_of_the_batch(scores: torch.Tensor) -> None:
    request = _request(temperature=1.5, seed=7, top_p=0.9)
    alone = _choose(Chooser(), scores[:1], [request])
    among = _choose(Chooser(), scores, [request, _request(temperature=2.0), _request(), _request(top_k=1)])
    graphed = _choose(Chooser(graphs=True), scores, [request, _request(), _request(), _request()])
    assert alone[0] == among[0] == graphed[0]


def test_choices_fall_by_the_softmax_of_the_scores() -> None:
    """20,000 draws over seeds: each share within five standard errors of its probability."""
    draws = 20_000
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    noise = gumbel(torch.arange(draws).unsqueeze(-1), torch.full((draws, 1), 3), 4)
    counts = torch.bincount((logits / 1.3 + noise).argmax(-1), minlength=4) / draws
    wanted = (logits / 1.3).softmax(-1)
    error = (wanted * (1 - wanted) / draws).sqrt()
    assert bool(((counts - wanted).abs() < 5 * error).all())


def test_positions_of_one_seed_are_independent() -> None:
    """The share of equal neighbours is that of chance."""
    draws = 20_000
    noise = gumbel(torch.full((draws, 1), 11), torch.arange(draws).unsqueeze(-1), 10)
    chosen = noise.argmax(-1)
    equal = float((chosen[1:] == chosen[:-1]).float().mean())
    assert equal == pytest.approx(0.1, abs=5 * (0.1 * 0.9 / draws) ** 0.5)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.3}, {0}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.6}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.65}, {0, 1}),
        ({"top_k": 0, "top_p": 1.0}, {0, 1, 2, 3}),
    ],
)
def test_filters_leave_what_they_should(asked: dict[str, Any], kept: set[int]) -> None:
    """Probabilities .4, .3, .2, .1."""
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().repeat(300, 1)
    requests = [_request(temperature=1.0, seed=seed, **asked) for seed in range(300)]
    storage = torch.zeros(Chooser().tensors_required, 300, dtype=torch.int32)
    chooser = Chooser()
    chosen = chooser(torch.zeros(300), scores, chooser.prepare_tensor_args(requests, storage)).argmax(-1)
    assert set(chosen.tolist()) == kept


def test_logprobs_are_those_before_any_temperature(scores: torch.Tensor) -> None:
    chooser = Chooser()
    requests = [_request("a", temperature=3.0, seed=1, logprobs=True), _request("b")]
    _choose(chooser, scores[:2], requests)
    kept = chooser.take("a")
    assert kept is not None
    assert kept.of(3) == pytest.approx(float(scores[0].log_softmax(-1)[3]))
    assert kept.best(2)[0] == (int(scores[0].argmax()), pytest.approx(float(scores[0].log_softmax(-1).max())))
    assert chooser.take("a") is None
    assert chooser.take("b") is None


def test_a_request_put_back_into_the_queue_draws_the_same(scores: torch.Tensor) -> None:
    """Its answer so far has become part of its prompt: the position is the same."""
    first, again = _request(length=5, temperature=1.0, seed=3), _request(length=7, temperature=1.0, seed=3)
    first.state.generated_tokens = [1, 2]
    assert _choose(Chooser(), scores[:1], [first]) == _choose(Chooser(), scores[:1], [again])
