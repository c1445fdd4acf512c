"""GGUF headers: bytes -> `ModelFacts`, without loading a weight.

Format: ggml-org/ggml docs/gguf.md, versions 2 and 3, little-endian. The file may be anybody's, so every count and
length is held against the file's size before anything is allocated, and whatever does not add up is `BadHeader`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roundhouse.core.errors import BadHeader
from roundhouse.core.model import ModelFacts

__all__ = ["parse_gguf", "read_gguf"]

_KEYS_LIMIT = 1 << 16
_TENSORS_LIMIT = 1 << 20
_KEY_BYTES = 65535
_TENSOR_NAME_BYTES = 256
_TEXT_BYTES = 16 << 20
_KEPT_ARRAY = 4096  # longer arrays are vocabularies; nothing here reads them

# struct formats of the scalar value types 0 to 12; 8 is text, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

# ggml type -> (name, elements per block, bytes per block): ggml.c type_traits, GGML_QUANT_SIZES of the gguf package.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip

_LOOKS_LIKE = {
    b"<!DO": "a web page; the download went wrong",
    b"<htm": "a web page; the download went wrong",
    b"vers": "a git-lfs pointer; fetch the file itself with git lfs pull",
    b"PK\x03\x04": "a zip or PyTorch file; llama.cpp needs GGUF",
    b"ggml": "an old GGML file; convert it to GGUF",
    b"ggjt": "an old GGML file; convert it to GGUF",
}


def read_gguf(path: Path | str) -> ModelFacts:
    """The facts of the GGUF file at `path`; raises `BadHeader`, also when the file is cut short."""
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            if size < 24:
                raise BadHeader(f"{name} is no model: it has {size} bytes", path=name)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return parse_gguf(data, size, name)
    except FileNotFoundError as error:
        raise BadHeader(f"there is no model file {name}; check the path", path=name) from error
    except IsADirectoryError as error:
        raise BadHeader(f"{name} is a folder; llama.cpp needs one GGUF file", path=name) from error
    except OSError as error:
        raise BadHeader(f"{name} cannot be read: {error.strerror or error}", path=name) from error


def parse_gguf(data: bytes | mmap.mmap, file_bytes: int, name: str = "file") -> ModelFacts:
    """The facts in `data`, the beginning of a file of `file_bytes`; raises `BadHeader` if it ends too early."""
    reader = _Reader(data, name)
    magic = bytes(data[:4])
    if magic != b"GGUF":
        said = _LOOKS_LIKE.get(magic) or ("a big-endian GGUF file" if magic == b"FUGG" else "no GGUF file")
        raise BadHeader(f"{name} is {said}", path=name)
    reader.offset = 4
    version = reader.scalar("I")
    if version not in (2, 3):
        raise BadHeader(f"{name} is of GGUF version {version}; 2 and 3 can be read", path=name, offset=4)
    tensors, keys = reader.scalar("Q"), reader.scalar("Q")
    if tensors > _TENSORS_LIMIT or keys > _KEYS_LIMIT:
        raise reader.bad(f"it claims {tensors} tensors and {keys} keys")
    values = _read_values(reader, keys)
    sizes = _read_tensors(reader, tensors, values, file_bytes)
    return _facts(values, sizes, file_bytes, reader)


class _Reader:
    """A cursor over the header that never reads past its end."""

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        self._data = data
        self._size = len(data)
        self.name = name
        self.offset = 0

    def bad(self, what: str) -> BadHeader:
        message = f"{self.name} is damaged near byte {self.offset}: {what}; download it again"
        return BadHeader(message, path=self.name, offset=self.offset)

    def take(self, length: int) -> bytes:
        end = self.offset + length
        if end > self._size:
            raise self.bad("it ends in the middle of its header")
        taken = bytes(self._data[self.offset : end])
        self.offset = end
        return taken

    def skip(self, length: int) -> None:
        if self.offset + length > self._size:
            raise self.bad("it ends in the middle of its header")
        self.offset += length

    def scalar(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self, limit: int) -> str:
        length = self.scalar("Q")
        if length > limit:
            raise self.bad(f"a text claims {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.bad("a text is not UTF-8") from None

    def value(self, kind: int) -> Any:
        """A value of a type; a long array is passed over and given as its length."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _TEXT:
            return self.text(_TEXT_BYTES)
        if kind != _ARRAY:
            raise self.bad(f"value type {kind} is unknown")
        inner, count = self.scalar("I"), self.scalar("Q")
        if inner in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[inner])
            if count * width > self._size - self.offset:
                raise self.bad(f"an array claims {count} values")
            if count > _KEPT_ARRAY:
                self.skip(count * width)
                return range(count)
            return list(struct.unpack(f"<{count}{_SCALARS[inner]}", self.take(count * width)))
        if inner != _TEXT:
            raise self.bad(f"an array of type {inner} cannot be read")
        if count * 8 > self._size - self.offset:
            raise self.bad(f"an array claims {count} texts")
        for _ in range(count):
            length = self.scalar("Q")
            self.skip(length)
        return range(count)


def _read_values(reader: _Reader, number: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(number):
        key = reader.text(_KEY_BYTES)
        if key in values:
            raise reader.bad(f'the key "{key}" stands twice')
        values[key] = reader.value(reader.scalar("I"))
    return values


def _read_tensors(
    reader: _Reader, number: int, values: Mapping[str, Any], file_bytes: int
) -> dict[str, tuple[str, int]]:
    """Tensor name -> (type, bytes). Every tensor must lie inside the file, on its alignment, and touch no other."""
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment % 8:
        raise reader.bad(f"an alignment of {alignment} is not possible")
    found: dict[str, tuple[str, int]] = {}
    places: list[tuple[int, int]] = []
    for _ in range(number):
        name = reader.text(_TENSOR_NAME_BYTES)
        dimensions = reader.scalar("I")
        if not 1 <= dimensions <= 4 or name in found:
            raise reader.bad(f'tensor "{name}" has {dimensions} dimensions or stands twice')
        elements = math.prod(reader.scalar("Q") for _ in range(dimensions))
        kind, offset = reader.scalar("I"), reader.scalar("Q")
        if kind not in _TYPES:
            raise reader.bad(f'tensor "{name}" is of the unknown type {kind}')
        label, per_block, block_bytes = _TYPES[kind]
        if elements % per_block or offset % alignment:
            raise reader.bad(f'tensor "{name}" does not fill whole blocks or is not aligned')
        found[name] = (label, elements // per_block * block_bytes)
        places.append((offset, found[name][1]))
    begin = -(-reader.offset // alignment) * alignment
    end = 0
    for offset, size in sorted(places):
        if offset < end:
            raise reader.bad("two of its tensors overlap")
        end = offset + size
    if begin + end > file_bytes:
        missing, whole = begin + end - file_bytes, begin + end
        raise BadHeader(
            f"{reader.name} is cut: {missing / 1e6:.1f} MB of {whole / 1e6:.1f} MB are missing; download it again",
            path=reader.name,
            offset=file_bytes,
        )
    return found


def _facts(
    values: Mapping[str, Any], tensors: Mapping[str, tuple[str, int]], file_bytes: int, reader: _Reader
) -> ModelFacts:
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise reader.bad("it does not name its architecture")

    def number(key: str, default: int = 0) -> int:
        value = values.get(f"{architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise reader.bad(f"{architecture}.{key} is {value!r}")
        return value

    layers, hidden = number("block_count"), number("embedding_length")
    heads = values.get(f"{architecture}.attention.head_count", 0)
    if layers > 10_000:
        raise reader.bad(f"it claims {layers} layers")
    per_layer = _per_layer(values.get(f"{architecture}.attention.head_count_kv", heads), layers, reader)
    most_heads = max(heads) if isinstance(heads, list) and heads else heads
    if not isinstance(most_heads, int) or most_heads < 0:
        raise reader.bad("its number of heads cannot be read")
    default_length = hidden // most_heads if most_heads else 0
    by_type: dict[str, int] = {}
    for label, size in tensors.values():
        by_type[label] = by_type.get(label, 0) + size
    vocabulary = values.get("tokenizer.ggml.tokens")
    return ModelFacts(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=most_heads,
        kv_heads=per_layer,
        key_length=number("attention.key_length", default_length),
        value_length=number("attention.value_length", default_length),
        context=number("context_length"),
        vocabulary=len(vocabulary) if isinstance(vocabulary, (range, list)) else number("vocab_size"),
        weight_bytes=sum(size for _, size in tensors.values()),
        name=_text(values, "general.name"),
        feed_forward=_first(values.get(f"{architecture}.feed_forward_length", 0)),
        experts=number("expert_count"),
        experts_used=number("expert_used_count"),
        tied_embeddings="output.weight" not in tensors,
        file_bytes=file_bytes,
        layer_bytes=_layer_bytes(tensors, layers),
        embedding_bytes=tensors.get("token_embd.weight", ("", 0))[1],
        output_bytes=tensors.get("output.weight", ("", 0))[1],
        tensor_bytes=by_type,
        quantisation=max(by_type, key=lambda label: by_type[label]) if by_type else "",
        licence=_text(values, "general.license"),
        chat_template=_text(values, "tokenizer.chat_template"),
    )


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, "")
    return value if isinstance(value, str) else ""


def _first(value: Any) -> int:
    if isinstance(value, list) and value:
        value = max(value)
    return value if isinstance(value, int) else 0


def _per_layer(value: Any, layers: int, reader: _Reader) -> tuple[int, ...]:
    """One number for all layers, or one for each."""
    heads = value if isinstance(value, list) else [value] * layers
    if len(heads) != layers or not all(isinstance(one, int) and 0 <= one < 1 << 20 for one in heads):
        raise reader.bad("its numbers of key-value heads cannot be read")
    return tuple(heads)


def _layer_bytes(tensors: Mapping[str, tuple[str, int]], layers: int) -> tuple[int, ...]:
    sizes = [0] * layers
    for name, (_, size) in tensors.items():
        parts = name.split(".", 2)
        if parts[0] == "blk" and len(parts) == 3 and parts[1].isdigit() and int(parts[1]) < layers:
            sizes[int(parts[1])] += size
    return tuple(sizes)
