"""Train the demo model. Seeded, on a CPU or a GPU, resumable: killed at any moment it goes on from its last checkpoint.

python -m training.train --tokenizer training/runs/tokenizer --run training/runs/main --minutes 90
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, MistralForCausalLM

from training.data import Shape
from training.model import Forward, block_mask, create
from training.packing import CONTEXT, FIRST, QUESTION, Batch, Mixture, batches
from training.validation import validation_set

_FIRST_WEIGHT = 3.0
_CONFIG = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "sliding_window",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "rms_norm_eps",
)

Cases = dict[str, list[tuple[list[int], list[int]]]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints and the log")
    parser.add_argument("--minutes", type=float, default=90.0, help="the whole schedule, over all resumed stretches")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--groups", type=int, default=16, help="contexts per step")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--feed-forward", type=int, default=768)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--copy-steps", type=int, default=150, help="steps of pure copying before the schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def _mixture(progress: float) -> Mixture:
    """Short contexts first, a few long ones in the second half; `progress` runs from 0 to 1."""
    if progress < 0.08:
        return Mixture(Shape(1, 2), other_wordings=0.0, no_context=0.01, summaries=0.0)
    if progress < 0.5:
        return Mixture(Shape(1, 4))
    if progress < 0.7:
        return Mixture(Shape(1, 5))
    return Mixture(Shape(1, 6, town=0.4))


def _produce(queue: Any, tokenizer_folder: Path, seed: int, groups: int, progress: Any) -> None:
    """The generator process: fresh data without end, of the mixture that the training's progress asks for."""
    os.nice(5)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    rng = Random(seed)
    mixture, source = None, None
    while True:
        wanted = Mixture(copies=1.0) if progress.value < 0 else _mixture(progress.value)
        if wanted != mixture or source is None:
            mixture, source = wanted, batches(tokenizer, rng, wanted, groups)
        queue.put(dataclasses.astuple(next(source)))


class _Averaged:
    """An exponential moving average of the weights, which is what is evaluated and shipped."""

    def __init__(self, model: MistralForCausalLM, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: MistralForCausalLM, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, weight)


def _loss(forward: Forward, batch: Batch, device: str, auxiliary: float) -> tuple[Tensor, float, float]:
    """Weighted cross entropy of answers plus a little of all else; the plain means of answers and first tokens."""
    ids, branch, position, purpose = (torch.from_numpy(array).to(device) for array in dataclasses.astuple(batch))
    hidden = forward.hidden(ids, position, block_mask(branch, torch.bfloat16))[:, :-1]
    target, of = ids[:, 1:], purpose[:, 1:]
    same_branch = branch[:, 1:] == branch[:, :-1]
    answers = (of >= FIRST) & same_branch
    losses = F.cross_entropy(forward.logits(hidden[answers]), target[answers], reduction="none")
    first = (of == FIRST)[answers]
    weights = torch.where(first, _FIRST_WEIGHT, 1.0)
    loss = (losses * weights).sum() / weights.sum()
    if auxiliary:
        others = ((of == CONTEXT) | (of == QUESTION)) & same_branch & (torch.rand(of.shape, device=device) < 0.3)
        loss = loss + auxiliary * F.cross_entropy(forward.logits(hidden[others]), target[others])
    return loss, losses.detach().mean().item(), losses.detach()[first].mean().item() if first.any() else math.nan


def _evaluate(model: MistralForCausalLM, cases: Cases, device: str) -> dict[str, float]:
    """Share of cases whose every answer token, teacher-forced, is the likeliest: greedy decoding's exact match."""
    forward, scores = Forward(model), {}
    for name, rows in cases.items():
        right = 0
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            width = max(len(asked) + len(told) for asked, told in part)
            ids = torch.full((len(part), width), 2)
            wanted = torch.zeros((len(part), width), dtype=torch.bool)
            for place, (asked, told) in enumerate(part):
                ids[place, : len(asked) + len(told)] = torch.tensor(asked + told)
                wanted[place, len(asked) : len(asked) + len(told)] = True
            ids, wanted = ids.to(device), wanted.to(device)
            with torch.no_grad():
                position = torch.arange(width, device=device)[None].expand(len(part), width)
                hidden = forward.hidden(ids, position, block_mask(torch.zeros_like(ids), torch.bfloat16))
                guess = forward.logits(hidden[:, :-1]).argmax(-1)
            right += int(((guess == ids[:, 1:]) | ~wanted[:, 1:]).all(1).sum())
        scores[name] = round(right / len(rows), 3)
    return scores


class _Run:
    """Model, average, optimizer and clock of one run, and their checkpoint."""

    def __init__(self, asked: argparse.Namespace, vocabulary: int) -> None:
        self._asked = asked
        self._path: Path = asked.run / "checkpoint.pt"
        self.model = create(
            vocabulary,
            hidden=asked.hidden,
            feed_forward=asked.feed_forward,
            layers=asked.layers,
            heads=asked.heads,
            kv_heads=asked.kv_heads,
            seed=asked.seed,
        ).to(asked.device)
        self.averaged = _Averaged(self.model, 0.998)
        matrices = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.model.named_parameters() if p.ndim != 2 or "embed" in name]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": 0.05},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=asked.rate, betas=(0.9, 0.95), fused=True)
        self.step, self.spent_s = 0, 0.0
        if self._path.exists():
            state = torch.load(self._path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.averaged.model.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent_s = state["step"], state["spent_s"]

    @property
    def share(self) -> float:
        """How much of the schedule is done, 0 to 1."""
        return float(self.spent_s / (self._asked.minutes * 60))

    def learn(self, batch: Batch) -> tuple[float, float]:
        """One step; the plain mean losses of answers and of their first tokens."""
        warm = min(1, (self.step + 1) / 100)
        rate = self._asked.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.share)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        auxiliary = 0.1 if self.step > self._asked.copy_steps and self.share < 0.4 else 0.0
        loss, answer, first = _loss(Forward(self.model), batch, self._asked.device, auxiliary)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.averaged.update(self.model, self.step)
        return answer, first

    def save(self) -> None:
        """Whole or not at all: a kill in the middle leaves the earlier checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "config": {name: getattr(self.model.config, name) for name in _CONFIG},
            "step": self.step,
            "spent_s": self.spent_s,
        }
        torch.save(state, self._path.with_suffix(".new"))
        os.replace(self._path.with_suffix(".new"), self._path)


def _start_producer(asked: argparse.Namespace, run: _Run) -> tuple[Any, Any, Any]:
    progress = multiprocessing.Value("d", -1.0 if run.step < asked.copy_steps else run.share)
    queue: Any = multiprocessing.Queue(32)
    arguments = (queue, asked.tokenizer, asked.seed * 1000 + run.step, asked.groups, progress)
    producer = multiprocessing.Process(target=_produce, args=arguments, daemon=True)
    producer.start()
    return producer, queue, progress


def _train(
    asked: argparse.Namespace, run: _Run, cases: Cases, queue: Any, progress: Any, say: Callable[[str], None]
) -> None:
    answers, firsts = [], []
    started = time.monotonic() - run.spent_s
    last_saved = last_evaluated = time.monotonic()
    while run.share < 1:
        progress.value = -1.0 if run.step < asked.copy_steps - 40 else run.share
        answer, first = run.learn(Batch(*queue.get()))
        answers.append(answer)
        firsts.append(first)
        now = time.monotonic()
        run.spent_s = now - started
        if run.step % 50 == 0:
            told = [value for value in firsts if not math.isnan(value)] or [math.nan]
            say(f"step {run.step} min {run.spent_s / 60:.2f} answer {np.mean(answers):.4f} first {np.mean(told):.4f}")
            answers, firsts = [], []
        if now - last_evaluated > 180:
            scores = json.dumps(_evaluate(run.averaged.model, cases, asked.device))
            say(f"step {run.step} min {run.spent_s / 60:.2f} validation {scores}")
            last_evaluated = time.monotonic()
            started += last_evaluated - now  # evaluation is not training time
        if now - last_saved > 240:
            last_saved = now
            run.save()


def main() -> None:
    asked = _arguments()
    asked.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(asked.threads)
    tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer)
    run = _Run(asked, len(tokenizer))
    cases = validation_set(tokenizer, per_kind=150)
    producer, queue, progress = _start_producer(asked, run)
    with (asked.run / "log.txt").open("a", buffering=1) as log:

        def say(text: str) -> None:
            print(text, flush=True)
            log.write(text + "\n")

        size = sum(parameter.numel() for parameter in run.model.parameters())
        say(f"# {json.dumps({name: str(value) for name, value in vars(asked).items()})} parameters {size}")
        try:
            _train(asked, run, cases, queue, progress, say)
            run.save()
            say(f"end step {run.step} validation {json.dumps(_evaluate(run.averaged.model, cases, asked.device))}")
        finally:
            producer.terminate()


if __name__ == "__main__":
    main()
