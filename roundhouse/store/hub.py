"""The HuggingFace hub: what a repository holds at a revision. Listing, tokens, mirrors and offline mode are those of
`huggingface_hub`; the bytes are fetched by `download`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from roundhouse.core.errors import DownloadFailed, MissingExtra
from roundhouse.store.download import Remote
from roundhouse.store.licences import licence_id

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

__all__ = ["Listing", "list_repository"]

_LIMIT_S = 20.0
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_COMMIT = re.compile(r"[0-9A-Za-z][0-9A-Za-z._/-]{0,199}")


@dataclass(frozen=True, slots=True)
class Listing:
    """`commit` is what the revision meant at that moment: all files are of it. `licence` empty = the card is silent."""

    repository: str
    commit: str
    licence: str
    files: tuple[Remote, ...]
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def list_repository(repository: str, revision: str) -> Listing:
    """Blocks. Raises `DownloadFailed` with what to do about it; `MissingExtra` without `huggingface_hub`."""
    try:
        import huggingface_hub as library
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not for mypy
    except ImportError as error:
        raise MissingExtra('the hub needs one more package: pip install "roundhouse[hub]"', extra="hub") from error
    try:
        found = library.HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=_LIMIT_S)
    except errors.OfflineModeIsEnabled as error:
        raise _failed(repository, "HF_HUB_OFFLINE is set; unset it to fetch anything") from error
    except errors.GatedRepoError as error:
        said = "its terms must be accepted on its page by the account whose token is in HF_TOKEN"
        raise _failed(repository, said, error.response.status_code) from error
    except errors.RevisionNotFoundError as error:
        raise _failed(repository, f"it has no revision {revision}", 404) from error
    except errors.RepositoryNotFoundError as error:
        said = "there is no such repository, or it is private and HF_TOKEN holds no token with access"
        raise _failed(repository, said, error.response.status_code) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        after = error.response.headers.get("retry-after")
        said = f"it answered {status}" + (f"; try again in {after} s" if after else "")
        raise _failed(repository, said, status) from error
    except (OSError, ValueError, errors.HFValidationError) as error:
        raise _failed(repository, str(error)) from error
    except Exception as error:
        if not type(error).__module__.startswith("http"):  # the library's HTTP client has an error tree of its own
            raise
        raise _failed(repository, f"{constants.ENDPOINT} cannot be reached: {error}") from error
    headers = build_hf_headers()
    try:
        files = tuple(_remote(found, file, library.hf_hub_url) for file in found.siblings or ())
        commit = _matching(_COMMIT, found.sha or revision)
    except _Nonsense as error:
        raise _failed(repository, f"its listing is damaged, or no hub answered: {error}") from error
    return Listing(repository, commit, _licence(found), files, headers)


class _Nonsense(Exception):
    pass


def _matching(form: re.Pattern[str], text: object) -> str:
    """`text`, of which names of files are made here, so that it must be what it claims to be."""
    if not isinstance(text, str) or not form.fullmatch(text):
        raise _Nonsense(repr(text)[:80])
    return text


def _remote(found: ModelInfo, file: RepoSibling, url_of: Callable[..., str]) -> Remote:
    size = -1 if file.size is None else file.size
    if type(size) is not int or size < -1:
        raise _Nonsense(f"a size of {size!r}")
    return Remote(
        path=file.rfilename,
        url=url_of(found.id, file.rfilename, revision=found.sha),
        size=size,
        sha256=_matching(_SHA256, file.lfs.sha256) if file.lfs else "",
        git_sha1="" if file.lfs or not file.blob_id else _matching(_SHA1, file.blob_id),
    )


def _licence(found: ModelInfo) -> str:
    """Of the model card; `other` is told apart by the name beside it."""
    card = dict(found.card_data.to_dict()) if found.card_data else {}  # type: ignore[no-untyped-call]
    licence = card.get("license") or next((t[8:] for t in found.tags or () if t.startswith("license:")), "")
    if licence == "other":
        licence = card.get("license_name") or "other"
    return licence_id(licence)


def _failed(repository: str, said: str, status: int = 0) -> DownloadFailed:
    return DownloadFailed(f"{repository} cannot be had from the hub: {said}", url=repository, status=status)
