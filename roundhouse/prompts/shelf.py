"""A folder of prompts with its history: labels such as `production` that move between versions, which are kept.

    prompts/labels.yaml                          rag_query: {production: 1f0c9a...}
    prompts/versions/rag_query@1f0c9a.../        the files of that version, as they were when it got a label

Plain files, to be kept in Git. A version is written whole before a label points to it, and a label is moved by one
rename, so that a reader never sees half of either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from roundhouse.core.errors import TemplateError
from roundhouse.core.files import locked, making_folder, write_atomically
from roundhouse.prompts.catalog import Catalog
from roundhouse.prompts.files import read_folder
from roundhouse.prompts.prompt import Prompt

__all__ = ["LABELS", "LOCK", "VERSIONS", "checked_label", "files_of", "move_label", "open_shelf"]

LABELS = "labels.yaml"
LOCK = ".labels.lock"
VERSIONS = "versions"
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
_LABELS_LIMIT_BYTES = 1 << 20


def open_shelf(folder: Path) -> Catalog:
    """The prompts of `folder`, their kept versions and their labels. Raises `TemplateError` with file and line."""
    prompts = read_folder(folder)
    kept: dict[tuple[str, str], Prompt] = {}
    for path in sorted((folder / VERSIONS).glob("*@*")):
        name, _, version = path.name.partition("@")
        prompt = read_folder(path).get(name)
        if prompt is None or prompt.version != version:
            found = "has no such prompt" if prompt is None else f"holds version {prompt.version}"
            raise TemplateError(f"{path} was changed: it {found}; a version is never edited, take it out of Git again")
        kept[name, version] = prompt
    labels = {
        (name, label): version
        for name, pointers in _read_labels(folder / LABELS).items()
        for label, version in pointers.items()
    }
    for (name, label), version in labels.items():
        current = prompts.get(name)
        if (name, version) not in kept and (current is None or current.version != version):
            raise TemplateError(f'{folder / LABELS}: "{label}" of {name} is version {version}, which is not kept')
    return Catalog(prompts, kept, labels)


def move_label(folder: Path, name: str, label: str, version: str = "") -> tuple[str, str]:
    """Let `label` of a prompt stand for `version`, or for what it is now; gives what it was (empty = new) and is.

    Raises `TemplateError` for an unknown prompt or version, or a label that is none.
    """
    checked_label(label)
    if not folder.is_dir():
        open_shelf(folder)  # which says what is wrong
    with locked(folder / LOCK):
        shelf = open_shelf(folder)
        prompt = shelf.find(f"{name}@{version}" if version else name)
        if (name, prompt.version) not in shelf.kept:
            _keep(folder, prompt)
        labels = {key: dict(pointers) for key, pointers in _read_labels(folder / LABELS).items()}
        before = labels.setdefault(name, {}).get(label, "")
        labels[name][label] = prompt.version
        write_atomically(folder / LABELS, yaml.safe_dump(labels, sort_keys=True).encode())
    return before, prompt.version


def checked_label(label: str) -> None:
    """Raises `TemplateError` for one that is none."""
    if not _LABEL.match(label):
        raise TemplateError(f'"{label}" is no label; use letters, digits, _ and -, such as production')


def files_of(prompt: Prompt) -> dict[str, str]:
    """What a version consists of, by path: the files of its wordings and all partials beside them."""
    found = {}
    for variant in prompt.variants.values():
        source = Path(variant.source)
        found[source.name] = _text(source)
        for partial in sorted((source.parent / "partials").glob("*.md")):
            found[f"partials/{partial.name}"] = _text(partial)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"{path} cannot be read: {error}") from error


def _read_labels(path: Path) -> Mapping[str, Mapping[str, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LABELS_LIMIT_BYTES + 1)
        if len(text) > _LABELS_LIMIT_BYTES:
            raise TemplateError(f"{path} is larger than {_LABELS_LIMIT_BYTES >> 10} KiB; those are no labels")
        labels = yaml.safe_load(text) or {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TemplateError(f"{path} cannot be read: {error}") from error
    flat = isinstance(labels, dict) and all(
        isinstance(pointers, dict) and all(isinstance(one, str) for one in pointers.values())
        for pointers in labels.values()
    )
    if not flat:
        raise TemplateError(f"{path}: expected prompts, each with its labels: rag_query: {{production: 1f0c9a...}}")
    return labels


def _keep(folder: Path, prompt: Prompt) -> None:
    """The files of `prompt` and all partials, written aside and then renamed into place."""
    place = folder / VERSIONS / f"{prompt.name}@{prompt.version}"
    place.parent.mkdir(exist_ok=True)
    try:
        with making_folder(place, 0o700) as aside:
            for path, text in files_of(prompt).items():
                (aside / path).parent.mkdir(exist_ok=True)
                (aside / path).write_text(text, encoding="utf-8", newline="")
    except OSError:
        if not place.is_dir():  # another process has kept the same version
            raise
