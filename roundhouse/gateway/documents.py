"""Documents as plain text, from files or standard input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from roundhouse.core.errors import InvalidRequest

__all__ = ["read_documents"]

_LIMIT_BYTES = 64 << 20
_NOT_TEXT = {
    b"%PDF": "a PDF; convert it first, for example with pdftotext",
    b"PK\x03\x04": "a zip archive or an office document; save it as plain text first",
    b"GGUF": "a model file, not a document",
}


def read_documents(names: Sequence[str], standard_input: BinaryIO | None) -> str:
    """The texts of `names` in order, apart by a blank line; `-` is standard input, None if that is closed.

    Raises `InvalidRequest` for a file that is missing, unreadable, too large, empty or no UTF-8 text.
    """
    if names.count("-") > 1:
        raise InvalidRequest("standard input can be read once; name - only once", param="context")
    return "\n\n".join(_read(name, standard_input) for name in names)


def _read(name: str, standard_input: BinaryIO | None) -> str:
    label = "standard input" if name == "-" else name
    try:
        if name == "-":
            if standard_input is None:
                raise InvalidRequest("standard input is closed; pipe a document into it", param="context")
            data = standard_input.read(_LIMIT_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise InvalidRequest(f"{label}: there is no such file", param="context") from error
    except IsADirectoryError as error:
        raise InvalidRequest(f"{label} is a folder; name the files in it", param="context") from error
    except OSError as error:
        raise InvalidRequest(f"{label} cannot be read: {error.strerror or error}", param="context") from error
    if len(data) > _LIMIT_BYTES:
        raise InvalidRequest(f"{label} is larger than {_LIMIT_BYTES >> 20} MiB; split it first", param="context")
    return _decode(data, label)


def _decode(data: bytes, label: str) -> str:
    for magic, what in _NOT_TEXT.items():
        if data.startswith(magic):
            raise InvalidRequest(f"{label} is {what}", param="context")
    if b"\0" in data:
        raise InvalidRequest(f"{label} is a binary file; give a text file", param="context")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{label} is not UTF-8 text (byte {error.start}); convert it, for example with iconv -t UTF-8",
            param="context",
        ) from error
    if not text.strip():
        raise InvalidRequest(f"{label} is empty", param="context")
    return text
