"""Texts -> vectors: sentence-transformers where it is installed and the model is made for it, else mean pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from roundhouse.engines.huggingface.load import Loaded, load
from roundhouse.resources.memory_transformers import EMBEDDED_AT_ONCE

__all__ = ["Embedder"]


class Embedder:
    """Vectors of unit length, one per text. Blocks while it computes."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._sentences = _sentence_transformer(settings)
        self.loaded: Loaded = load(settings, embeddings=True)

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """The vectors and how many tokens were read."""
        tokenizer = self.loaded.tokenizer
        counts = [
            len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=self.loaded.window)["input_ids"]
        ]
        if self._sentences is not None:
            vectors = self._sentences.encode(list(texts), batch_size=EMBEDDED_AT_ONCE, normalize_embeddings=True)
            return [vector.tolist() for vector in vectors], sum(counts)
        # Texts of like length share a batch, so that little is computed on padding.
        order = sorted(range(len(texts)), key=counts.__getitem__)
        found: list[list[float]] = [[] for _ in texts]
        for start in range(0, len(order), EMBEDDED_AT_ONCE):
            places = order[start : start + EMBEDDED_AT_ONCE]
            for place, vector in zip(places, self._pooled([texts[place] for place in places]), strict=True):
                found[place] = vector
        return found, sum(counts)

    def _pooled(self, texts: Sequence[str]) -> list[list[float]]:
        tokenizer, model = self.loaded.tokenizer, self.loaded.model
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        batch = tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.loaded.window, return_tensors="pt"
        ).to(model.device)
        batch.pop("token_type_ids", None)
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        vectors: list[list[float]] = torch.nn.functional.normalize(mean, dim=-1).cpu().tolist()
        return vectors


def _sentence_transformer(settings: Mapping[str, Any]) -> Any:
    """Only for a model that says how its vectors are pooled; its files name the modules."""
    if not (Path(settings["model"]) / "modules.json").is_file():
        return None
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        return None
    return SentenceTransformer(settings["model"], trust_remote_code=bool(settings.get("trust_remote_code")))
