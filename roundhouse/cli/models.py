"""`roundhouse models`: what is on disk, where it came from, under which licence, in which revision."""

from __future__ import annotations

import contextlib
import getpass
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from roundhouse.cli import bring
from roundhouse.cli.common import ConfigOption, JSONOption, ModelArgument, print_json, settings_of, tell
from roundhouse.cli.tables import ago, megabytes, print_csv, print_table
from roundhouse.core.errors import ChecksumMismatch, InUse, NotInStore
from roundhouse.gateway.models import Models
from roundhouse.gateway.prospect import would_fit
from roundhouse.store.http import without_secrets
from roundhouse.store.licences import licence_of
from roundhouse.store.references import Reference
from roundhouse.store.revisions import Revision

__all__ = ["app"]

app = typer.Typer(help="Models on disk: catalogue, revisions, licences.", no_args_is_help=True)

app.command("pull")(bring.pull_)
app.command("import")(bring.import_)
app.command("update")(bring.update)
app.command("rollback")(bring.rollback)


@app.command("list")
def list_models(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """The catalogue and what is on disk, in one table."""
    settings = settings_of(config)
    models = Models(settings)
    rows = [*_on_disk(models), *_not_here(models)]
    for row in rows:
        row["fits"] = would_fit(row.pop("facts"), settings)
    damaged = models.store.damaged()
    if as_json:
        faults = [{"reference": one.reference, "fault": one.said} for one in damaged]
        print_json({"store": str(models.store.layout.root), "models": rows, "damaged": faults})
        return
    for one in damaged:
        tell(f"{one.reference} is damaged: {one.said}; pull it again, or `roundhouse models rm {one.reference}`")
    heads = ("MODEL", "LICENCE", "COMMERCIAL", "FITS", "SIZE", "CONTEXT", "REVISIONS", "USED")
    print_table(heads, [_shown(row) for row in rows])


def _on_disk(models: Models) -> list[dict[str, Any]]:
    found = []
    revisions = models.store.revisions()
    for one in (one for one in revisions if one.current):
        manifest = one.manifest
        same = [r for r in revisions if (r.manifest.name, r.manifest.variant) == (manifest.name, manifest.variant)]
        facts = one.facts()
        found.append(
            {
                "model": f"{manifest.name}:{manifest.variant}",
                "title": models.catalogue[manifest.name].title if manifest.name in models.catalogue else "",
                "licence": manifest.licence,
                "commercial": str(licence_of(manifest.licence).commercial),
                "on_disk": True,
                "size_bytes": manifest.size,
                "context": facts.context if facts else 0,
                "revision": manifest.id,
                "revisions": len(same),
                "used": one.used,
                "facts": facts,
            }
        )
    return found


def _not_here(models: Models) -> list[dict[str, Any]]:
    here = {one.manifest.name for one in models.store.revisions() if one.current}
    rows = []
    for name, entry in models.catalogue.items():
        if name in here:
            continue
        rows.append(
            {
                "model": name,
                "title": entry.title,
                "licence": entry.licence,
                "commercial": str(licence_of(entry.licence).commercial),
                "on_disk": entry.builtin,
                "size_bytes": entry.sizes.get("q4_k_m", 0),
                "context": entry.context,
                "revision": "",
                "revisions": 0,
                "used": 0.0,
                "facts": entry.facts("q4_k_m"),
            }
        )
    return rows


def _shown(row: dict[str, Any]) -> tuple[str, ...]:
    fits = {True: "yes", False: "no", None: "?"}[row["fits"]]
    here = str(row["revisions"]) if row["revisions"] else ("built in" if row["on_disk"] else "not here")
    context = f"{row['context']:,}" if row["context"] else "?"
    size = megabytes(row["size_bytes"]) if row["size_bytes"] else "?"
    return (row["model"], row["licence"] or "?", row["commercial"], fits, size, context, here, ago(row["used"]))


@app.command()
def accept(
    model: Annotated[str, typer.Argument(help="A catalogue name, or a model on disk.")],
    text: Annotated[
        Path | None, typer.Option(help="File with the licence's text as you read it; its hash is kept.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Accept a model's licence, once; who, when and which text are kept."""
    models = Models(settings_of(config))
    name = Reference.parse(model).name
    entry = models.catalogue.get(name)
    identity = entry.licence if entry else models.store.find(Reference(name)).manifest.licence
    models.policy.check(name, identity)
    licence = licence_of(identity)
    said = f"{licence.name} ({identity})\n{licence.said}\n{licence.url}"
    read = text.read_text("utf-8") if text else said
    if not yes:
        tell(f"{name} is under the {said}")
        typer.confirm("Do you accept it?", abort=True, err=True)
    source = str(text) if text else "the summary that is shown"
    made = models.acceptances.record(name, identity, read, source, getpass.getuser())
    if as_json:
        print_json(asdict(made))
        return
    print(f"accepted {identity} for {name}, by {made.by} at {made.when}, text {made.text_sha256[:12]}")


@app.command()
def show(model: ModelArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """A model's revisions, files, source and licence; or what the catalogue knows of it."""
    models = Models(settings_of(config))
    reference = Reference.parse(model)
    revisions = models.store.revisions(reference.name, reference.variant)
    entry = models.catalogue.get(reference.name)
    if not revisions and entry is None:
        models.store.find(reference)
    if as_json:
        print_json(
            {"catalogue": asdict(entry) if entry else None, "revisions": [bring.described(r) for r in revisions]}
        )
        return
    if entry:
        licence = licence_of(entry.licence)
        print(f"{reference.name}: {entry.title or reference.name}")
        print(f"  licence {entry.licence or 'not named'}: {licence.said}")
        for form, where in (("ollama", entry.ollama), ("gguf", entry.gguf), ("safetensors", entry.safetensors)):
            if where:
                print(f"  {form:<12}{where}")
        if entry.gated:
            print(
                "  gated       the hub gives its safetensors to a token of an account that has accepted the terms there"
            )
        if recommended := {
            name: value for name, value in structs.asdict(entry.sampling).items() if value not in (None, ())
        }:
            print(f"  sampling    {', '.join(f'{key} {value:g}' for key, value in recommended.items())}")
    for one in revisions:
        mark = "current" if one.current else "kept"
        manifest = one.manifest
        print(f"\n{one.reference} ({mark}, {manifest.created}, last used {ago(one.used)})")
        print(f"  from {without_secrets(manifest.source)} {manifest.revision}".rstrip())
        print(f"  licence {manifest.licence or 'not named'}: {licence_of(manifest.licence).said}")
        print(f"  at {one.path}")
        for file in manifest.files:
            print(f"  {megabytes(file.size):>10}  {file.sha256[:12]}  {file.path}")


@app.command()
def rm(model: ModelArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Remove a model, a variant or one revision; never one that is loaded. `gc` frees the space."""
    gone = Models(settings_of(config)).store.remove(Reference.parse(model))
    if as_json:
        print_json({"removed": [one.reference for one in gone]})
        return
    for one in gone:
        print(f"removed {one.reference}")
    print("`roundhouse models gc` gives its space back")


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="NAME, NAME:VARIANT or NAME@REVISION; default: everything.")] = "",
    repair: Annotated[bool, typer.Option("--repair", help="Fetch what is damaged anew from where it came.")] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Read every byte and compare it with its sha256. Exit code 1 if anything is damaged, and stays so."""
    models = Models(settings_of(config))
    store = models.store
    reference = Reference.parse(model) if model else Reference("")
    chosen = store.revisions(reference.name, reference.variant)
    lost = store.damaged(reference.name, reference.variant)
    if reference.revision or (model and not chosen):
        chosen, lost = [store.find(reference)], []
    found = {}
    for one in chosen:
        with contextlib.suppress(NotInStore, InUse):  # somebody removes it meanwhile
            found[one.reference] = _fault(store.verify, one)
    if repair:
        for one in (one for one in chosen if found.get(one.reference)):
            bring.renew(models, one)
            found[one.reference] = _fault(store.verify, one)
    found |= {one.reference: one.said for one in lost}
    if as_json:
        print_json({"revisions": [{"reference": name, "fault": fault} for name, fault in found.items()]})
    else:
        for name, fault in found.items():
            print(f"{name}: {fault or 'whole'}")
    if any(found.values()):
        tell("`roundhouse models verify --repair` fetches what is damaged anew; import what was imported again")
        sys.exit(1)


def _fault(check: Any, revision: Revision) -> str:
    try:
        check(revision)
    except ChecksumMismatch as error:
        return str(error)
    return ""


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Remove contents that no revision names, and downloads that were given up."""
    store = Models(settings_of(config)).store
    gone = store.garbage() if dry_run else store.collect()
    freed = sum(size for _, size in gone)
    if as_json:
        print_json({"dry_run": dry_run, "bytes": freed, "removed": [{"path": str(p), "bytes": n} for p, n in gone]})
        return
    for path, size in gone:
        print(f"{megabytes(size):>10}  {path.relative_to(store.layout.root)}")
    print(f"{megabytes(freed)} {'would be' if dry_run else 'were'} freed")


@app.command("licences")
def show_licences(
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """A report of every model on disk for a legal review."""
    models = Models(settings_of(config))
    accepted = models.acceptances.all()
    rows = []
    for one, objection in models.licences():
        manifest = one.manifest
        licence, made = licence_of(manifest.licence), accepted.get(manifest.name)
        rows.append(
            {
                "model": f"{manifest.name}:{manifest.variant}",
                "revision": manifest.id,
                "source": without_secrets(manifest.source),
                "licence": manifest.licence,
                "declared": manifest.declared,
                "commercial": str(licence.commercial),
                "conditions": licence.conditions,
                "url": licence.url,
                "accepted": made.when if made else "",
                "accepted_by": made.by if made else "",
                "accepted_text_sha256": made.text_sha256 if made else "",
                "objection": objection,
            }
        )
    if as_json:
        print_json({"models": rows})
    elif as_csv:
        print_csv(rows)
    else:
        heads = ("MODEL", "REVISION", "LICENCE", "DECLARED", "COMMERCIAL", "ACCEPTED", "MAY BE USED")
        keys = ("model", "revision", "licence", "declared", "commercial", "accepted")
        print_table(heads, [(*(str(row[key]) for key in keys), row["objection"] or "yes") for row in rows])
