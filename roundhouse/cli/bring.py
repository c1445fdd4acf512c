"""`roundhouse models pull`, `import`, `update` and `rollback`: what changes which revision is the current one."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from roundhouse.cli.common import ConfigOption, JSONOption, ModelArgument, print_json, settings_of, tell
from roundhouse.cli.progress import download_shown
from roundhouse.cli.tables import megabytes
from roundhouse.config import Settings
from roundhouse.gateway.defaults import OLLAMA_URL
from roundhouse.gateway.models import Models, mismatch
from roundhouse.store.importing import import_model
from roundhouse.store.manifest import GGUF, SAFETENSORS
from roundhouse.store.ollama import pull_into_ollama
from roundhouse.store.pull import Order, Pulled, pull
from roundhouse.store.references import Reference
from roundhouse.store.revisions import Revision

__all__ = ["described", "import_", "pull_", "renew", "rollback", "update"]


def import_(
    path: Annotated[Path, typer.Argument(help="A GGUF file, or a folder of safetensors or GGUF files.")],
    name: Annotated[str, typer.Option(help="Its name in the store; default: the file's.")] = "",
    licence: Annotated[str, typer.Option(help="Its licence, where its own files do not say.")] = "",
    quant: Annotated[str, typer.Option(help="Which of a folder's GGUF files.")] = "",
    allow_pickle: Annotated[bool, typer.Option(help="Take pickles, which run code when they are loaded.")] = False,
    allow_code: Annotated[bool, typer.Option(help="Take the Python code beside the weights.")] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Copy a model that is on this machine already into the store; the original stays."""
    models = Models(settings_of(config))
    known = models.catalogue.get(name)
    done = import_model(
        models.store,
        path,
        name=Reference.parse(name).name if name else "",
        licence=(licence or (known.licence if known else "")).lower(),
        quantisation=quant,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        permit=models.permit,
    )
    if done.left_out:
        tell(f"left out, because they run code: {', '.join(done.left_out)}")
    report(done.revision, "imported", as_json)


def pull_(
    model: Annotated[str, typer.Argument(help="A catalogue name, OWNER/NAME on the hub, or a URL of a GGUF file.")],
    quant: Annotated[str, typer.Option(help="Which GGUF file; default Q4_K_M.")] = "",
    form: Annotated[str, typer.Option("--format", help="gguf or safetensors; default: GGUF if there is any.")] = "",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "",
    name: Annotated[str, typer.Option(help="Its name in the store.")] = "",
    licence: Annotated[str, typer.Option(help="Its licence, where its source does not say.")] = "",
    allow_pickle: Annotated[bool, typer.Option(help="Take pickles, which run code when they are loaded.")] = False,
    allow_code: Annotated[bool, typer.Option(help="Take the Python code beside the weights.")] = False,
    to_ollama: Annotated[
        bool, typer.Option("--ollama", help="Have the Ollama server pull it into its own store.")
    ] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Fetch a model, or go on fetching it, and make it the current revision."""
    if form not in ("", GGUF, SAFETENSORS):
        raise typer.BadParameter("--format is gguf or safetensors")
    settings = settings_of(config)
    models = Models(settings)
    if to_ollama:
        _pull_into_ollama(models, model, settings, as_json)
        return
    asked = models.order(model, name=name, revision=revision, licence=licence, form=form, quantisation=quant)
    order = replace(asked, allow_pickle=allow_pickle, allow_code=allow_code)
    done = _pull(models, order)
    if done.left_out:
        tell(f"left out, because they run code: {', '.join(done.left_out)}")
    report(done.revision, "pulled" if done.fresh else "already here:", as_json)


def _pull_into_ollama(models: Models, model: str, settings: Settings, as_json: bool) -> None:
    """By the catalogue's tag, under its licence; another name is a tag as it stands."""
    entry = models.catalogue.get(model)
    tag = entry.ollama if entry and entry.ollama else model
    models.permit(model, entry.licence if entry else "")
    url = next((one.endpoint for one in settings.targets if one.type == "ollama" and one.endpoint), OLLAMA_URL)
    with download_shown() as listen:
        asyncio.run(pull_into_ollama(url, tag, pace=models.pace(), listen=listen))
    print_json({"done": "pulled", "model": tag, "server": url}) if as_json else print(f"pulled {tag} at {url}")


def _pull(models: Models, order: Order, *, current: bool = True) -> Pulled:
    with download_shown() as listen:
        pulling = pull(models.store, order, pace=models.pace(), permit=models.permit, listen=listen, current=current)
        return asyncio.run(pulling)


def renew(models: Models, revision: Revision) -> None:
    """Bring the contents of a revision anew that are damaged, from the commit that it came from."""
    gone = models.store.set_damage_aside(revision)
    tell(f"{revision.reference}: {', '.join(gone) or 'nothing'} put aside, to be fetched again")
    _pull(models, replace(models.renewal(revision), revision=revision.manifest.revision), current=False)


def update(
    model: ModelArgument,
    gate: Annotated[
        bool, typer.Option("--gate", help="Measure both first, and keep the old one if the new one is slower or worse.")
    ] = False,
    dataset: Annotated[str, typer.Option(help="For --gate: a JSONL file of questions, or `demo`.")] = "demo",
    count: Annotated[int, typer.Option(min=20, help="For --gate: questions in each of two rounds.")] = 100,
    margin: Annotated[float, typer.Option(min=0, help="For --gate: a share that is no change of speed.")] = 0.1,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Fetch the newest revision of a model on disk and switch to it; the old one is kept for `rollback`.

    Exit code 1 if --gate kept the old one; the new one then stays on disk, and is not the current one.
    """
    settings = settings_of(config)
    models = Models(settings)
    before = models.store.find(Reference.parse(model))
    done = _pull(models, models.renewal(before), current=not gate)
    if done.revision.manifest.id == before.manifest.id:
        report(done.revision, "up to date:", as_json)
        return
    now, told = done.revision, {}
    if gate:
        told = _measured(before, now, settings, dataset, count, margin)
        if told["failed"]:
            _kept(before, now, told, as_json)
            raise typer.Exit(1)
        now = models.store.publish(now.manifest)
    report(now, f"updated from {before.manifest.id} to", as_json, told)


def _measured(
    before: Revision, after: Revision, settings: Settings, dataset: str, count: int, margin: float
) -> dict[str, Any]:
    """What the gate found: the rows that stand against the new revision, and the table in Markdown."""
    from roundhouse.bench.compare import compare, markdown
    from roundhouse.bench.dataset import read
    from roundhouse.bench.gate import failing, measured

    questions = read(dataset)
    old, new = asyncio.run(measured((before, after), settings, questions, count, tell))
    rows, notes = compare(old, new, margin=margin)
    tell(markdown(rows, notes, (before.manifest.id, after.manifest.id)))
    return {"failed": [asdict(row) for row in failing(rows)], "rows": [asdict(row) for row in rows]}


def _kept(before: Revision, after: Revision, told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"done": "kept", **described(before), "refused": after.reference, "gate": told})
        return
    reasons = ", ".join(f"{row['metric']} {row['verdict']}" for row in told["failed"])
    print(f"kept {before.reference}: {after.reference} is {reasons}")
    tell("`roundhouse models update` without --gate takes it all the same; `models rm` removes it")


def rollback(model: ModelArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Go back to the revision before the current one; nothing is fetched."""
    before, now = Models(settings_of(config)).store.rollback(Reference.parse(model))
    report(now, f"rolled back from {before.manifest.id} to", as_json)


def report(revision: Revision, done: str, as_json: bool, gate: dict[str, Any] | None = None) -> None:
    """Say what became of a revision."""
    if said := mismatch(revision):
        tell(f"roundhouse: {said}")
    if as_json:
        print_json({"done": done, **described(revision), **({"gate": gate} if gate else {})})
        return
    manifest = revision.manifest
    print(f"{done} {revision.reference}, {megabytes(manifest.size)}, licence {manifest.licence or 'not named'}")


def described(revision: Revision) -> dict[str, Any]:
    manifest = revision.manifest
    fields = asdict(manifest)
    return {
        "reference": revision.reference,
        "current": revision.current,
        "path": str(revision.path),
        "id": manifest.id,
        "size_bytes": manifest.size,
        "used": revision.used,
        **fields,
    }
