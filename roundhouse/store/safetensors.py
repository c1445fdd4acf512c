"""A folder with `config.json` and safetensors files: bytes -> `ModelFacts`, without loading a weight.

Format: huggingface/safetensors README: u64 length, JSON header, data without holes. Names of `config.json` are those of
transformers' configuration classes.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from roundhouse.core.errors import BadHeader
from roundhouse.core.model import ModelFacts
from roundhouse.store.gguf import Tensor
from roundhouse.store.layers import window_layers

__all__ = ["MOST_HEADER_BYTES", "describe", "parse_config", "parse_header", "parts_of", "read_folder"]

MOST_HEADER_BYTES = 25 << 20  # what the Hub itself refuses to read beyond
_JSON_BYTES = 64 << 20
_LAYERS_LIMIT = 10_000
_NUMBER_LIMIT = 1 << 40
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_OUTPUTS = ("lm_head.weight", "embed_out.weight")
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d{1,5})\.")
_EXPERT = re.compile(r"\.experts\.\d{1,5}\.")
_LICENCE = re.compile(r"^license: *[\"']?([\w.+-]+)", re.MULTILINE)


def read_folder(folder: Path) -> ModelFacts:
    """The facts of the model in `folder`; raises `BadHeader`, also when one of its files is missing or cut."""
    config = _read_json(folder / "config.json")
    files = {str(file): _read_file(file) for file in _weight_files(folder)}
    facts = describe(config, {name: tensors for name, (tensors, _) in files.items()}, str(folder))
    file_bytes = sum(size for _, size in files.values())
    return replace(
        facts, name=folder.name, file_bytes=file_bytes, licence=_licence(folder), chat_template=_template(folder)
    )


def describe(config: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]], name: str) -> ModelFacts:
    """The facts of a model called `name` in errors, from its `config.json` and the tensors of each of its files.

    Raises `BadHeader`. Licence, template and the files' size are left out.
    """
    tensors: dict[str, Tensor] = {}
    for file, found in files.items():
        if twice := tensors.keys() & found.keys():
            raise BadHeader(f"{file} holds {min(twice)!r}, which another file of the model holds too", path=file)
        tensors |= found
    return _facts(_Config(config, f"{name}/config.json"), tensors)


def parse_config(data: bytes, name: str) -> dict[str, Any]:
    """A JSON table; raises `BadHeader`."""
    if len(data) > _JSON_BYTES:
        raise _damaged(name, f"it is larger than {_JSON_BYTES >> 20} MiB")
    value = _json(data, name)
    if not isinstance(value, dict):
        raise _damaged(name, "it is no table")
    return value


def parse_header(data: bytes, file_bytes: int, name: str = "file") -> dict[str, Tensor]:
    """The tensors of one safetensors file of `file_bytes` from its beginning `data`; raises `BadHeader`.

    When `data` ends before the header does, the error's `offset` is the length of `data`: read more.
    """
    if len(data) < 8:
        raise BadHeader(f"{name} is cut: it has {len(data)} bytes; download it again", path=name, offset=len(data))
    length = struct.unpack_from("<Q", data)[0]
    if length > MOST_HEADER_BYTES or data[8:9] not in (b"{", b""):
        raise BadHeader(f"{name} is no safetensors file: it does not begin with a header", path=name)
    if length > len(data) - 8:
        whole = "it ends inside its header; download it again" if len(data) >= file_bytes else "more must be read of it"
        raise BadHeader(f"{name} is cut: {whole}", path=name, offset=len(data))
    rows = _json(data[8 : 8 + length], name)
    if not isinstance(rows, dict):
        raise _damaged(name, "its header is no table")
    rows.pop("__metadata__", None)
    placed = [(*_place(tensor, row, name), tensor) for tensor, row in rows.items()]
    end = 0
    for begin, stop, _, tensor in sorted(placed, key=lambda row: row[:2]):
        if begin != end:
            raise _damaged(name, f"the tensor {tensor[:80]!r} overlaps another or leaves a hole")
        end = stop
    missing = 8 + length + end - file_bytes
    if missing > 0:
        raise BadHeader(
            f"{name} is cut: {missing / 1e6:.1f} MB of {(missing + file_bytes) / 1e6:.1f} MB are missing; "
            "download it again",
            path=name,
            offset=file_bytes,
        )
    if missing < 0:
        raise _damaged(name, f"{-missing} bytes follow its last tensor")
    return {tensor: value for _, _, value, tensor in placed}


def _place(name: str, row: Any, file: str) -> tuple[int, int, Tensor]:
    """Begin and end of one tensor's data, and the tensor."""
    if not isinstance(row, dict):
        raise _damaged(file, f"the tensor {name[:80]!r} is not described")
    kind, shape, offsets = row.get("dtype"), row.get("shape"), row.get("data_offsets")
    if not isinstance(kind, str) or kind not in _BITS or not _naturals(shape) or not _naturals(offsets):
        raise _damaged(file, f"the tensor {name[:80]!r} is not described")
    if len(shape) > 16 or len(offsets) != 2:
        raise _damaged(file, f"the tensor {name[:80]!r} has impossible dimensions")
    bits = math.prod(shape) * _BITS[kind]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise _damaged(file, f"the tensor {name[:80]!r} does not fill its place")
    return offsets[0], offsets[1], Tensor(kind, tuple(reversed(shape)), bits // 8)


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 63 for one in value)


def _weight_files(folder: Path) -> list[Path]:
    """The files that the index names, or else every safetensors file."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise BadHeader(f"{folder} holds no *.safetensors file; download the model again", path=str(folder))
        return files
    return [folder / name for name in parts_of(_read_json(index), str(index))]


def parts_of(index: Mapping[str, Any], name: str) -> list[str]:
    """The files of one folder that an index (`model.safetensors.index.json`) names; raises `BadHeader`."""
    rows = index.get("weight_map")
    if not isinstance(rows, dict) or not rows or not all(isinstance(file, str) for file in rows.values()):
        raise _damaged(name, "its weight_map is no table of file names")
    files = set(rows.values())
    if outside := [file for file in files if Path(file).name != file]:
        raise _damaged(name, f"it names a file outside its folder, {outside[0][:80]!r}")
    return sorted(files)


def _read_file(path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of one file, and its size."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            return parse_header(head + file.read(min(length, MOST_HEADER_BYTES)), size, str(path)), size
    except OSError as error:
        raise BadHeader(f"{path} cannot be read: {error.strerror or error}", path=str(path)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_JSON_BYTES + 1)
    except OSError as error:
        raise BadHeader(f"{path} cannot be read: {error.strerror or error}", path=str(path)) from error
    return parse_config(data, str(path))


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"it is no JSON ({str(error)[:120]})") from error


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _damaged(name: str, what: str) -> BadHeader:
    return BadHeader(f"{name} is damaged: {what}; download it again", path=name)


class _Config:
    """`config.json`, its text part where it describes several, each value checked as it is asked for."""

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        text = values.get("text_config")
        self._values = {**values, **text} if isinstance(text, dict) else values
        self.path = path

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def number(self, *keys: str, default: int = 0) -> int:
        """The first of `keys` that is set."""
        for key in keys:
            value = self._values.get(key)
            if value is None:
                continue
            if type(value) is not int or not 0 <= value < _NUMBER_LIMIT:
                raise _damaged(self.path, f"{key} is {str(value)[:80]}")
            return value
        return default

    def architecture(self) -> str:
        """As GGUF names it: `gemma3_text` -> gemma3, `gpt_oss` -> gpt-oss."""
        name = self._values.get("model_type")
        if not isinstance(name, str) or not name:
            raise _damaged(self.path, "it does not name its model_type")
        return name.removesuffix("_text").replace("_", "-")

    def layer_types(self, layers: int) -> tuple[str, ...]:
        kinds = self._values.get("layer_types")
        if kinds is None:
            return ()
        if not isinstance(kinds, list) or len(kinds) != layers or not all(isinstance(kind, str) for kind in kinds):
            raise _damaged(self.path, f"layer_types does not name {layers} layers")
        return tuple(kinds)


def _facts(config: _Config, tensors: Mapping[str, Tensor]) -> ModelFacts:
    layers = config.number("num_hidden_layers", "n_layer")
    if layers > min(len(tensors), _LAYERS_LIMIT):
        raise _damaged(config.path, f"it claims {layers} layers and there are {len(tensors)} tensors")
    hidden, heads = config.number("hidden_size", "n_embd"), config.number("num_attention_heads", "n_head")
    kinds = config.layer_types(layers)
    recurrent = tuple("attention" not in kind or kind == "linear_attention" for kind in kinds)
    kv_heads = config.number("num_key_value_heads", default=heads)
    length = config.number("head_dim", default=hidden // heads if heads else 0)
    by_type: dict[str, int] = {}
    for tensor in tensors.values():
        by_type[tensor.kind] = by_type.get(tensor.kind, 0) + tensor.size
    embedding = next((tensor for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)), None)
    output = next((tensor for name, tensor in tensors.items() if name.endswith(_OUTPUTS)), None)
    feed_forward = config.number("intermediate_size", "n_inner", default=4 * hidden)
    experts = config.number("num_local_experts", "num_experts", "n_routed_experts")
    return ModelFacts(
        architecture=config.architecture(),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=tuple(0 if state else kv_heads for state in recurrent) or (kv_heads,) * layers,
        key_length=length,
        value_length=config.number("v_head_dim", default=length),
        context=config.number("max_position_embeddings", "n_positions"),
        vocabulary=config.number("vocab_size"),
        weight_bytes=sum(tensor.size for tensor in tensors.values()),
        feed_forward=feed_forward,
        expert_feed_forward=config.number("moe_intermediate_size", default=feed_forward) if experts else 0,
        experts=experts,
        experts_used=config.number("num_experts_per_tok"),
        windows=_windows(config, layers, kinds),
        window_key_length=length,
        window_value_length=length,
        recurrent=recurrent if any(recurrent) else (),
        tied_embeddings=embedding is not None and output is None,
        split_expert_bytes=sum(tensor.size for name, tensor in tensors.items() if _EXPERT.search(name)),
        layer_bytes=_layer_bytes(tensors, layers),
        embedding_bytes=embedding.size if embedding else 0,
        embedding_type=embedding.kind if embedding else "",
        output_bytes=output.size if output else 0,
        tensor_bytes=by_type,
        quantisation=max(by_type, key=lambda kind: by_type[kind]) if by_type else "",
    )


def _windows(config: _Config, layers: int, kinds: Sequence[str]) -> tuple[int, ...]:
    """transformers slides in every layer where nothing else is said, unlike llama.cpp."""
    window = config.number("sliding_window")
    if not window or config.get("use_sliding_window") is False:
        return (0,) * layers
    pattern: Sequence[int] | int | None = config.number("sliding_window_pattern") or None
    if kinds:
        pattern = [kind == "sliding_attention" for kind in kinds]
    known = window_layers(config.architecture(), layers, window, pattern)
    return known if any(known) or kinds else (window,) * layers


def _layer_bytes(tensors: Mapping[str, Tensor], layers: int) -> tuple[int, ...]:
    sizes = [0] * layers
    for name, tensor in tensors.items():
        found = _LAYER.search(name)
        if found and int(found[1]) < layers:
            sizes[int(found[1])] += tensor.size
    return tuple(sizes)


def _licence(folder: Path) -> str:
    """As the model card's front matter names it."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    with card.open("rb") as file:
        front = file.read(1 << 16).decode("utf-8", "replace").split("\n---", 1)[0]
    found = _LICENCE.search(front)
    return found[1] if found else ""


def _template(folder: Path) -> str:
    template = folder / "chat_template.jinja"
    if template.is_file():
        with template.open("rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    settings = folder / "tokenizer_config.json"
    said = _read_json(settings).get("chat_template") if settings.is_file() else None
    return said if isinstance(said, str) else ""
