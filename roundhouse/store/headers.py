"""What a model's files say of it: `ModelFacts` from a GGUF file or a folder of safetensors, with no weight loaded."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roundhouse.core.errors import BadHeader
from roundhouse.core.model import ModelFacts
from roundhouse.store import gguf, safetensors
from roundhouse.store.gguf import Header, Tensor
from roundhouse.store.layers import keeps_cache, recurrent_layers, window_layers

__all__ = ["parse_gguf", "read_gguf", "read_model"]

_LAYERS_LIMIT = 10_000
_HEADS_LIMIT = 1 << 20
_NUMBER_LIMIT = 1 << 40
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

_LOOKS_LIKE = (
    (re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "a web page; the download went wrong"),
    (re.compile(rb"version https://git-lfs"), "a git-lfs pointer; fetch the file itself with git lfs pull"),
    (re.compile(rb"PK\x03\x04|\x80[\x02-\x05]"), "a zip or PyTorch file; convert it to GGUF or safetensors"),
    (re.compile(rb".{8}\{", re.DOTALL), "a safetensors file; give the folder that holds it and its config.json"),
    (re.compile(rb"lmgg|tjgg|fmgg|ggml|ggjt"), "an old GGML file; convert it to GGUF"),
    (re.compile(rb"\s*\{"), "a JSON text; give the model file itself"),
    (re.compile(rb"\x00{16}"), "empty inside; the download was interrupted"),
)


def read_model(path: Path | str) -> ModelFacts:
    """The facts of a GGUF file, or of a folder with `config.json` and safetensors files. Raises `BadHeader`."""
    return safetensors.read_folder(Path(path)) if Path(path).is_dir() else read_gguf(path)


def read_gguf(path: Path | str) -> ModelFacts:
    """The facts of the GGUF file at `path`; raises `BadHeader`, also when the file is cut short.

    The first of several parts (`...-00001-of-00003.gguf`) stands for all of them: each is read, and all must be there.
    """
    first, size = _read_header(Path(path))
    parts = first.values.get("split.count", 1)
    if not isinstance(parts, int) or parts <= 1:
        return _facts(first, size, str(path))
    tensors, name = dict(first.tensors), Path(path).name
    numbers = _PART.search(name)
    if numbers is None or int(numbers[1]) != 1 or int(numbers[2]) != parts:
        raise BadHeader(f"{path} is a part of {parts}; give the first, whose name ends in -00001-of-{parts:05}.gguf")
    for number in range(2, parts + 1):
        part, part_bytes = _read_header(Path(path).with_name(_PART.sub(f"-{number:05}-of-{parts:05}.gguf", name)))
        tensors |= part.tensors
        size += part_bytes
    return _facts(Header(first.values, tensors), size, str(path))


def parse_gguf(data: bytes, file_bytes: int, name: str = "file") -> ModelFacts:
    """The facts in `data`, the beginning of a file of `file_bytes` bytes that is called `name` in errors.

    Raises `BadHeader`; when `data` ends before the header does, its `offset` is the length of `data`: read more.
    """
    return _facts(_parse(data, file_bytes, name), file_bytes, name)


def _read_header(path: Path) -> tuple[Header, int]:
    """The header of one file and the file's size."""
    name = str(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if not size:
                raise BadHeader(f"{name} is empty; download it again", path=name)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(data, size, name), size
    except FileNotFoundError as error:
        looked = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise BadHeader(f"there is no model file {name}{looked}; check the path", path=name) from error
    except IsADirectoryError as error:
        raise BadHeader(f"{name} is a folder; llama.cpp needs one GGUF file", path=name) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise BadHeader(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}", path=name) from error


def _parse(data: bytes | mmap.mmap, file_bytes: int, name: str) -> Header:
    if data[:4] == b"GGUF":
        return gguf.parse(data, file_bytes, name)
    beginning = data[:64]
    for pattern, said in _LOOKS_LIKE:
        if pattern.match(beginning):
            raise BadHeader(f"{name} is no GGUF file but {said}", path=name)
    raise BadHeader(f"{name} is no GGUF file: it begins with {bytes(beginning[:8])!r}", path=name)


class _Keys:
    """The values of one file, checked as they are asked for: a header may say anything."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self._values = values
        self._name = name
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self.bad("it does not name its architecture")
        self.architecture = architecture

    def bad(self, what: str) -> BadHeader:
        return BadHeader(f"{self._name} contradicts itself: {what}; get it from another source", path=self._name)

    def text(self, key: str) -> str:
        value = self._values.get(key, "")
        return value if isinstance(value, str) else ""

    def get(self, key: str) -> Any:
        return self._values.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int = 0) -> int:
        """A count or a length; of one for each layer, the largest."""
        value = self.get(key)
        if value is None:
            return default
        return max(self._counts(key, value), default=0)

    def per_layer(self, key: str, layers: int, default: Sequence[int]) -> tuple[int, ...]:
        """One number for each layer, given as such or once for all."""
        value = self.get(key)
        if value is None:
            return tuple(default)
        counts = self._counts(key, value)
        if isinstance(value, int):
            return counts * layers
        if len(counts) < layers:
            raise self.bad(f"{self.architecture}.{key} has {len(counts)} entries for {layers} layers")
        return counts[:layers]

    def flags(self, key: str) -> tuple[int, ...] | int | None:
        """A pattern over layers: a sequence of marks, or a period."""
        value = self.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return None if value is None else self._counts(key, value)[0]
        return self._counts(key, value)

    def vocabulary(self, tensors: Mapping[str, Tensor]) -> int:
        embedding = tensors.get("token_embd.weight")
        if embedding is not None:
            return embedding.dimensions[-1]
        tokens = self._values.get("tokenizer.ggml.tokens")
        return len(tokens) if isinstance(tokens, (range, tuple)) else self.number("vocab_size")

    def _counts(self, key: str, value: Any) -> tuple[int, ...]:
        counts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(one, int) and 0 <= one < _NUMBER_LIMIT for one in counts):
            raise self.bad(f"{self.architecture}.{key} is {str(value)[:80]}")
        return counts


def _facts(header: Header, file_bytes: int, name: str) -> ModelFacts:
    keys, tensors = _Keys(header.values, name), header.tensors
    layers = keys.number("block_count")
    hidden = keys.number("embedding_length")
    if layers > (len(tensors) or _LAYERS_LIMIT):
        raise keys.bad(f"it claims {layers} layers and holds {len(tensors)} tensors")
    embedding = tensors.get("token_embd.weight")
    if embedding is not None and hidden and embedding.dimensions[0] != hidden:
        raise keys.bad(f"it claims a width of {hidden} and its embedding has {embedding.dimensions[0]}")
    heads = keys.per_layer("attention.head_count", layers, (0,) * layers)
    kv_heads = _kv_heads(keys, layers, heads)
    recurrent = _recurrent(keys, kv_heads)
    if not all(recurrent):  # heads given once for all layers do not hold for the recurrent ones
        kv_heads = tuple(0 if state else count for count, state in zip(kv_heads, recurrent, strict=True))
    by_type = _bytes_by_type(tensors)
    default_length = hidden // max(heads, default=0) if any(heads) else 0
    experts = keys.number("expert_count")
    feed_forward = keys.number("feed_forward_length")
    key_length = keys.number("attention.key_length", default_length)
    shared = keys.get("attention.key_length_mla") is not None  # latent attention caches keys alone
    value_length = 0 if shared else keys.number("attention.value_length", default_length)
    return ModelFacts(
        architecture=keys.architecture,
        layers=layers,
        hidden=hidden,
        heads=max(heads, default=0),
        kv_heads=kv_heads,
        key_length=key_length,
        value_length=value_length,
        context=keys.number("context_length"),
        vocabulary=keys.vocabulary(tensors),
        weight_bytes=sum(tensor.size for tensor in tensors.values()),
        name=keys.text("general.name"),
        feed_forward=feed_forward,
        expert_feed_forward=keys.number("expert_feed_forward_length", feed_forward) if experts else 0,
        experts=experts,
        experts_used=keys.number("expert_used_count"),
        windows=_windows(keys, layers),
        window_key_length=keys.number("attention.key_length_swa", key_length),
        window_value_length=keys.number("attention.value_length_swa", value_length),
        recurrent=recurrent,
        recurrent_layer_bytes=_state_bytes(keys, hidden) if recurrent else 0,
        recurrent_width=(keys.number("ssm.inner_size") or hidden) if recurrent else 0,
        tied_embeddings=embedding is not None and "output.weight" not in tensors,
        file_bytes=file_bytes,
        layer_bytes=_layer_bytes(tensors, layers),
        embedding_bytes=embedding.size if embedding else 0,
        embedding_type=embedding.kind if embedding else "",
        output_bytes=tensors["output.weight"].size if "output.weight" in tensors else 0,
        tensor_bytes=by_type,
        quantisation=max(by_type, key=lambda kind: by_type[kind]) if by_type else "",
        licence=keys.text("general.license"),
        chat_template=keys.text("tokenizer.chat_template"),
    )


def _kv_heads(keys: _Keys, layers: int, heads: Sequence[int]) -> tuple[int, ...]:
    """Key-value heads per layer; 0 for the last layers where they read an earlier layer's cache (gemma3n, gemma4), and
    for all of a model that keeps none.
    """
    kv_heads = keys.per_layer("attention.head_count_kv", layers, heads)
    if any(count >= _HEADS_LIMIT for count in kv_heads):
        raise keys.bad(f"it claims {max(kv_heads)} key-value heads")
    own = layers - keys.number("attention.shared_kv_layers") if keeps_cache(keys.architecture) else 0
    return tuple(count if layer < own else 0 for layer, count in enumerate(kv_heads))


def _windows(keys: _Keys, layers: int) -> tuple[int, ...]:
    said = keys.get("attention.sliding_window") is not None
    window = keys.number("attention.sliding_window") if said else None
    return window_layers(keys.architecture, layers, window, keys.flags("attention.sliding_window_pattern"))


def _recurrent(keys: _Keys, kv_heads: Sequence[int]) -> tuple[bool, ...]:
    """Which layers are recurrent; empty if none can be."""
    if not any(keys.number(key) for key in ("ssm.inner_size", "shortconv.l_cache", "wkv.head_size")):
        return ()
    listed = keys.flags("attention.recurrent_layers")
    return recurrent_layers(
        keys.architecture,
        kv_heads,
        listed if isinstance(listed, tuple) else (),
        keys.number("full_attention_interval"),
    )


def _state_bytes(keys: _Keys, hidden: int) -> int:
    """One recurrent layer's state for one sequence, float32 (`llama_hparams::n_embd_r` and `n_embd_s`)."""
    if head := keys.number("wkv.head_size"):
        return 4 * hidden * (keys.number("token_shift_count", 2) + head)
    if cached := keys.number("shortconv.l_cache"):
        return 4 * hidden * (cached - 1)
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    convolved = inner + 2 * keys.number("ssm.group_count") * state
    return 4 * (max(0, keys.number("ssm.conv_kernel") - 1) * convolved + state * inner)


def _bytes_by_type(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.size
    return sizes


def _layer_bytes(tensors: Mapping[str, Tensor], layers: int) -> tuple[int, ...]:
    sizes = [0] * layers
    for name, tensor in tensors.items():
        block, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if block == "blk" and number.isdecimal() and len(number) < 6 and int(number) < layers:
            sizes[int(number)] += tensor.size
    return tuple(sizes)
