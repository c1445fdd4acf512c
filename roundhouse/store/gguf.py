"""The GGUF container: bytes -> keys and a table of tensors, with nothing loaded.

Format: ggml-org/ggml docs/gguf.md, versions 2 and 3, little-endian. The file may be anybody's, so every count and
length is held against the bytes that are there before anything is allocated, what is kept is bounded as a whole, and
whatever does not add up is `BadHeader`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roundhouse.core.errors import BadHeader

__all__ = ["Header", "Tensor", "parse"]

_KEYS_LIMIT = 1 << 16
_TENSORS_LIMIT = 1 << 18
_KEY_BYTES = 65535
_TENSOR_NAME_BYTES = 256
_KEPT_BYTES = 64 << 20  # of texts and numbers in all; chat templates reach some hundred kilobytes
_KEPT_ARRAY = 4096  # longer arrays are vocabularies; nothing here reads them
_TEXTS_LIMIT = 1 << 22  # in all arrays together: vocabularies reach 300,000, their merges twice that
_VALUE_BYTES = 32  # what one number costs in Python

# struct formats of the scalar value types 0 to 12; 8 is text, 9 an array.
_SCALARS = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_TEXT, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

# ggml type -> (name, elements per block, bytes per block): ggml.c type_traits, GGML_QUANT_SIZES of the gguf package.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """`dimensions` as stored, the row length first; `size` in bytes."""

    kind: str
    dimensions: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """`values` by key; an array too long to keep is a `range` of its length."""

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def parse(data: bytes | mmap.mmap, file_bytes: int, name: str) -> Header:
    """The header in `data`, the beginning (or the whole) of a file of `file_bytes` that is called `name` in errors.

    Raises `BadHeader`. If `data` ends before the header does, the error's `offset` is the length of `data`.
    """
    reader = _Reader(data, file_bytes, name)
    reader.skip(4)
    version = reader.u32()
    if version and version & 0xFFFF == 0:
        raise BadHeader(f"{name} is a big-endian GGUF file; get the little-endian one", path=name, offset=4)
    if version not in (2, 3):
        raise BadHeader(f"{name} is of GGUF version {version}; versions 2 and 3 can be read", path=name, offset=4)
    tensors, keys = reader.u64(), reader.u64()
    if tensors > _TENSORS_LIMIT or keys > _KEYS_LIMIT:
        raise reader.bad(f"it claims {tensors} tensors and {keys} keys")
    values = _read_values(reader, keys)
    return Header(values, _read_tensors(reader, tensors, values))


class _Reader:
    """A cursor over the header that never reads past its end and never keeps more than its budget."""

    def __init__(self, data: bytes | mmap.mmap, file_bytes: int, name: str) -> None:
        self._data = data
        self._end = len(data)
        self._file_bytes = file_bytes
        self._name = name
        self._kept_left = _KEPT_BYTES
        self._texts_left = _TEXTS_LIMIT
        self.offset = 0

    def bad(self, what: str) -> BadHeader:
        message = f"{self._name} is damaged near byte {self.offset}: {what}; download it again"
        return BadHeader(message, path=self._name, offset=self.offset)

    def cut(self) -> BadHeader:
        """The bytes end inside the header."""
        if self._end < self._file_bytes:
            what = f"the header of {self._name} is longer than the {self._end} bytes that were read of it"
        else:
            what = f"{self._name} is cut: it ends inside its header, after {self._end} bytes; download it again"
        return BadHeader(what, path=self._name, offset=self._end)

    def cut_in_data(self, whole_bytes: int) -> BadHeader:
        """The header is whole, and what it describes is longer than the file."""
        missing = whole_bytes - self._file_bytes
        return BadHeader(
            f"{self._name} is cut: {_size(missing)} of {_size(whole_bytes)} are missing; download it again",
            path=self._name,
            offset=self._file_bytes,
        )

    @property
    def file_bytes(self) -> int:
        return self._file_bytes

    def require(self, length: int, what: str = "a value") -> None:
        """`BadHeader` if the next `length` bytes are not there: more than the file can hold is a lie, less is a cut."""
        if length > self._file_bytes - self.offset:
            if self._end < self._file_bytes or length > self._file_bytes:
                raise self.bad(f"{what} claims {length} bytes")
            raise self.cut()
        if length > self._end - self.offset:
            raise self.cut()

    def skip(self, length: int) -> None:
        self.require(length)
        self.offset += length

    def scalar(self, kind: struct.Struct) -> Any:
        self.require(kind.size)
        value = kind.unpack_from(self._data, self.offset)[0]
        self.offset += kind.size
        return value

    def u32(self) -> int:
        return int(self.scalar(_U32))

    def u64(self) -> int:
        return int(self.scalar(_U64))

    def text(self, limit: int) -> str:
        length = self.u64()
        if length > limit:
            raise self.bad(f"a text claims {length} bytes")
        self.require(length, "a text")
        self._keep(length)
        taken = self._data[self.offset : self.offset + length]
        try:
            decoded = taken.decode()
        except UnicodeDecodeError:
            raise self.bad("a text is not UTF-8") from None
        self.offset += length
        return decoded

    def value(self, kind: int) -> Any:
        """A value of a type; a long array is passed over and given as a `range` of its length."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _TEXT:
            return self.text(_KEPT_BYTES)
        if kind != _ARRAY:
            raise self.bad(f"value type {kind} is unknown")
        inner, count = self.u32(), self.u64()
        if inner in _SCALARS:
            return self._numbers(_SCALARS[inner], count)
        if inner == _TEXT:
            return self._skip_texts(count)
        raise self.bad(f"an array of type {inner} cannot be read")

    def _numbers(self, kind: struct.Struct, count: int) -> Any:
        self.require(count * kind.size, "an array")
        if count > _KEPT_ARRAY:
            self.skip(count * kind.size)
            return range(count)
        self._keep(count * _VALUE_BYTES)
        numbers = struct.unpack_from(f"<{count}{kind.format[1:]}", self._data, self.offset)
        self.offset += count * kind.size
        return numbers

    def _skip_texts(self, count: int) -> range:
        """Pass over texts without decoding them. A vocabulary has some hundred thousand: the loop is kept bare."""
        self.require(count * _U64.size, "an array")
        self._texts_left -= count
        if self._texts_left < 0:
            raise self.bad(f"an array claims {count} texts")
        data, end, offset, unpack = self._data, self._end, self.offset, _U64.unpack_from
        for _ in range(count):
            if offset + 8 > end:
                break
            offset += 8 + unpack(data, offset)[0]
        if offset > end:
            if offset > self._file_bytes and self._end < self._file_bytes:
                raise self.bad("a text reaches past the end of the file")
            raise self.cut()
        self.offset = offset
        return range(count)

    def _keep(self, size: int) -> None:
        self._kept_left -= size
        if self._kept_left < 0:
            raise self.bad(f"its keys hold more than {_KEPT_BYTES >> 20} MiB")


def _read_values(reader: _Reader, number: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(number):
        key = reader.text(_KEY_BYTES)
        if key in values:
            raise reader.bad(f"the key {key[:80]!r} stands twice")
        values[key] = reader.value(reader.u32())
    return values


def _read_tensors(reader: _Reader, number: int, values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every tensor lies inside the file, on its alignment, and touches no other."""
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment % 8:
        raise reader.bad(f"an alignment of {alignment!r} is not possible")
    found: dict[str, Tensor] = {}
    places: list[tuple[int, int]] = []
    for _ in range(number):
        name = reader.text(_TENSOR_NAME_BYTES)
        if name in found:
            raise reader.bad(f"the tensor {name!r} stands twice")
        tensor, offset = _read_tensor(reader, name)
        if offset % alignment:
            raise reader.bad(f"the tensor {name!r} is not aligned")
        found[name] = tensor
        places.append((offset, tensor.size))
    begin = -(-reader.offset // alignment) * alignment
    end = 0
    for offset, size in sorted(places):
        if offset < end:
            raise reader.bad("two of its tensors overlap")
        end = offset + size
    if begin + end > reader.file_bytes and places:
        raise reader.cut_in_data(begin + end)
    return found


def _read_tensor(reader: _Reader, name: str) -> tuple[Tensor, int]:
    """One row of the table and the offset of its data."""
    count = reader.u32()
    if not 1 <= count <= 4:
        raise reader.bad(f"the tensor {name!r} has {count} dimensions")
    dimensions = tuple(reader.u64() for _ in range(count))
    kind, offset = reader.u32(), reader.u64()
    if kind not in _TYPES:
        raise reader.bad(f"the tensor {name!r} is of the unknown type {kind}")
    label, per_block, block_bytes = _TYPES[kind]
    elements = math.prod(dimensions)
    if not elements or dimensions[0] % per_block or elements >= 1 << 48 or offset >= 1 << 63:
        raise reader.bad(f"the tensor {name!r} cannot have the dimensions {dimensions}")
    return Tensor(label, dimensions, elements // per_block * block_bytes), offset


def _size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e6:.1f} MB" if count >= 50_000 else f"{count} bytes"
