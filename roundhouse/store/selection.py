"""Which files of a repository or a folder make a model. Pure: names in, names out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from roundhouse.core.errors import StoreError
from roundhouse.store.manifest import GGUF, SAFETENSORS

__all__ = ["DEFAULT_QUANTISATION", "Selection", "quantisations", "select"]

DEFAULT_QUANTISATION = "Q4_K_M"
_QUANTISATION = re.compile(r"(?:^|[-._])((?:IQ|Q|TQ)\d(?:_[A-Z0-9]+)*|BF16|F16|F32|FP16|FP32|MXFP4)(?=$|[-._])", re.I)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TEXTS = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_DOCUMENTS = re.compile(r"(licen[cs]e|notice|use_policy|readme)[^/]*", re.I)
# Not the model: other frameworks' weights lie in folders of their own, and Mistral's repositories hold them twice.
_TWICE = re.compile(r"consolidated.*\.safetensors|params\.json")


@dataclass(frozen=True, slots=True)
class Selection:
    """`variant` names the choice within the model; `left_out` are files that would run code when loaded."""

    format: str
    variant: str
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def select(
    names: Sequence[str],
    *,
    form: str = "",
    quantisation: str = "",
    allow_pickle: bool = False,
    allow_code: bool = False,
    what: str = "it",
) -> Selection:
    """GGUF files of one quantisation if there are any, else safetensors with what transformers needs beside them.

    `form` asks for one of the two. `quantisation` is found in any case; by default Q4_K_M, else the only one there.
    Raises `StoreError` with what there is to choose from.
    """
    by_quantisation = quantisations(names)
    if form == GGUF or (not form and by_quantisation):
        chosen = _chosen(by_quantisation, quantisation, what)
        documents = [name for name in names if _DOCUMENTS.fullmatch(name)]
        return Selection(GGUF, chosen.lower(), (*by_quantisation[chosen], *sorted(documents)))
    if quantisation:
        raise StoreError(f"{what} has no GGUF files, so no quantisation can be chosen")
    return _safetensors(names, allow_pickle=allow_pickle, allow_code=allow_code, what=what)


def quantisations(names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """GGUF files by quantisation, in upper case, the parts of one model together and in order; no projectors."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if not name.lower().endswith(".gguf") or "mmproj" in name.lower():
            continue
        stem = PurePosixPath(name).name[: -len(".gguf")]
        base = _SHARD.sub("", stem)
        marks = _QUANTISATION.findall(base)
        key = marks[-1].upper() if marks else "GGUF"
        found.setdefault(key, {}).setdefault(f"{PurePosixPath(name).parent}/{base}", []).append(name)
    # Two files of one quantisation: the shorter name is the plain one.
    return {
        key: tuple(sorted(min(groups.items(), key=lambda g: (len(g[0]), g[0]))[1])) for key, groups in found.items()
    }


def _chosen(there: Mapping[str, Sequence[str]], asked: str, what: str) -> str:
    if not there:
        raise StoreError(f"{what} has no GGUF files; leave out --quant, or name a repository with GGUF files")
    wanted = asked.upper() or DEFAULT_QUANTISATION
    if wanted not in there:
        if asked or len(there) > 1:
            raise StoreError(f"{what} has no {wanted}; choose one with --quant: {', '.join(sorted(there))}")
        wanted = next(iter(there))
    return _whole(wanted, there[wanted], what)


def _whole(key: str, files: Sequence[str], what: str) -> str:
    """`key`, if all its parts are there."""
    for name in files:
        if (found := _SHARD.search(name[: -len(".gguf")])) and len(files) != int(found[2]):
            raise StoreError(f"{what} has {len(files)} of the {int(found[2])} parts of {key}; it is not whole")
    return key


def _safetensors(names: Sequence[str], *, allow_pickle: bool, allow_code: bool, what: str) -> Selection:
    flat = [name for name in names if "/" not in name and not _TWICE.fullmatch(name)]
    weights = [name for name in flat if name.endswith(".safetensors")]
    pickles = [name for name in flat if name.endswith(_PICKLES)]
    code = [name for name in flat if name.endswith(".py")]
    if not weights and not (pickles and allow_pickle):
        if pickles:
            raise StoreError(
                f"{what} has only pickles ({pickles[0]}), which run code when they are loaded; "
                "choose a repository with safetensors, or use --allow-pickle if you trust it as a program"
            )
        raise StoreError(f"{what} has neither GGUF nor safetensors files; it is no model that can be run here")
    if "config.json" not in flat:
        raise StoreError(f"{what} has weights but no config.json; it is no model that transformers can load")
    beside = [name for name in flat if name.endswith(_TEXTS) or _DOCUMENTS.fullmatch(name)]
    taken = {*beside, *weights} | (set(pickles) if allow_pickle and not weights else set())
    taken |= set(code) if allow_code else set()
    left_out = tuple(sorted({*pickles, *code} - taken))
    return Selection(SAFETENSORS, SAFETENSORS, tuple(sorted(taken)), left_out)
