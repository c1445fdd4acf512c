"""How each request of a batch chooses its next token, all in one pass of tensor operations.

transformers samples a whole batch one way, with one generator. Here every request has its own temperature, filters and
seed: noise is a pure function of (seed, position, token), so an answer does not depend on what else is in its batch,
on the device, or on whether a CUDA graph replays it. A token is the largest of `logit / temperature + Gumbel noise`,
which is an exact sample of the softmax (Gumbel 1954; Maddison et al. 2014, A* Sampling, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.logits_process import LogitsProcessorList

__all__ = ["Alternatives", "Chooser", "gumbel"]

_FLOATS = ("temperature", "top_p", "min_p")
_NUMBERS = ("top_k", "seed")
_NEUTRAL = {"temperature": 0.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0, "seed": 0}
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Natural-log probabilities of one place in a text, before any temperature or filter; shape [vocabulary]."""

    logprobs: Tensor

    def of(self, token: int) -> float:
        return float(self.logprobs[token])

    def best(self, count: int) -> list[tuple[int, float]]:
        """The likeliest tokens, best first."""
        values, tokens = self.logprobs.topk(min(count, self.logprobs.numel()))
        return list(zip(tokens.tolist(), values.tolist(), strict=True))


class Chooser(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """In place of a manager's own processors. A request's `logit_processor_kwargs` hold any of `temperature` (0 = the
    likeliest token), `top_p`, `min_p`, `top_k` (0 = all), `seed`, and `logprobs` (True = keep them for `take`).

    It leaves one token per row above all others, so that the manager's own argmax takes it. `graphs`: a CUDA graph may
    replay it, so no shortcut may depend on the batch, and no logprobs can be kept.
    """

    def __init__(self, *, graphs: bool = False) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required = len(_FLOATS) + len(_NUMBERS) + 1
        self.do_processing = True
        self.graphs = graphs
        self._sampling = False
        self._filtering = False
        self._wanting: list[tuple[int, str]] = []
        self._kept: dict[str, Alternatives] = {}

    def take(self, request_id: str) -> Alternatives | None:
        """What the last step knew of the place that this request's newest token took."""
        return self._kept.pop(request_id, None)

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Every value has been checked at the entrance."""

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: Tensor) -> Tensor:
        """One column per request that gets a token: temperature, top_p, min_p, top_k, seed, position."""
        states = [request.state for request in requests_in_batch if request.has_new_token]
        asked = [{**_NEUTRAL, **state.logit_processor_kwargs} for state in states]
        floats = torch.tensor([[one[name] for one in asked] for name in _FLOATS], dtype=torch.float32)
        numbers = torch.tensor(
            [
                *([one[name] for one in asked] for name in _NUMBERS),
                # Prompt and answer together, for a request put back into the queue has its answer in its prompt.
                [len(state.initial_tokens) + len(state.generated_tokens) for state in states],
            ],
            dtype=torch.int32,
        )
        columns = torch.cat([floats.view(torch.int32), numbers])
        arg_storage[:, : len(states)] = columns.to(arg_storage.device)
        self._sampling = any(one["temperature"] > 0 for one in asked)
        self._filtering = any(one["top_k"] or one["top_p"] < 1 or one["min_p"] > 0 for one in asked)
        self._wanting = [(row, states[row].request_id) for row, one in enumerate(asked) if one.get("logprobs")]
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, logits_processor_args: Tensor) -> Tensor:
        """Scores [rows, vocabulary] -> scores whose argmax is each row's choice."""
        rows = scores.size(0)
        self._keep(scores)
        if not (self._sampling or self.graphs):
            return scores
        floats = logits_processor_args[: len(_FLOATS), :rows].view(torch.float32)
        temperature, top_p, min_p = (row.unsqueeze(-1) for row in floats)
        top_k, seed, position = (row.unsqueeze(-1) for row in logits_processor_args[len(_FLOATS) :, :rows].long())
        greedy = temperature <= 0
        heated = scores / torch.where(greedy, torch.ones_like(temperature), temperature)
        if self._filtering or self.graphs:
            heated = _filtered(heated, top_k, top_p, min_p)
        return torch.where(greedy, scores, heated + gumbel(seed, position, scores.size(-1)))

    def _keep(self, scores: Tensor) -> None:
        for row, request_id in self._wanting:
            self._kept[request_id] = Alternatives(scores[row].log_softmax(-1).cpu())


def gumbel(seed: Tensor, position: Tensor, size: int) -> Tensor:
    """Standard Gumbel noise of shape [rows, size] from integer columns [rows, 1]; equal inputs give equal noise.

    The integers are mixed by `lowbias32` (Chris Wellons, "Prospecting for Hash Functions", 2018), three times.
    """
    tokens = torch.arange(size, device=seed.device).unsqueeze(0)
    mixed = _mixed(_mixed(_mixed(seed & _MASK) + position & _MASK) + tokens & _MASK)
    uniform = ((mixed >> 9).float() + 0.5) / (1 << 23)  # 23 bits: the largest value stays below 1 in float32
    return -torch.log(-torch.log(uniform))


def _mixed(value: Tensor) -> Tensor:
    value = value ^ (value >> 16)
    value = value * 0x7FEB352D & _MASK
    value = value ^ (value >> 15)
    value = value * 0x846CA68B & _MASK
    return value ^ (value >> 16)


def _filtered(scores: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Scores with all that top-k, then nucleus, then min-p sampling leave out at minus infinity."""
    ordered, _ = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    places = torch.arange(scores.size(-1), device=scores.device).unsqueeze(0)
    kept = (top_k == 0) | (places < top_k)
    within = probabilities * kept
    within = within / within.sum(-1, keepdim=True)
    # A token stays while those before it have not reached the share; the first always stays.
    kept &= (within.cumsum(-1) - within < top_p) | (top_p >= 1)
    kept &= within >= min_p * within[:, :1]
    least = ordered.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
    return scores.masked_fill(scores < least, -torch.inf)
