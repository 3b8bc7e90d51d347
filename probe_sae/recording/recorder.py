"""Record: run a host over a recipe and write what its sites hold into a store."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probe_sae.errors import DatasetError, SettingsError, StoreError
from probe_sae.field_types import take_types
from probe_sae.host import Host, Site, SiteWatch, host_of, versions
from probe_sae.outputs import whole_folder, write_whole
from probe_sae.progress import progress, say
from probe_sae.recording.batches import as_recorded, batches, check_kind
from probe_sae.recording.contexts import frame_of, longest_context
from probe_sae.recording.documents import class_names
from probe_sae.recording.recipe import Recipe, as_recipe
from probe_sae.recording.rows import TOKENS, RowGatherer, cut, since
from probe_sae.recording.vocabulary import write_vocabulary
from probe_sae.store import SiteInfo, Store, StoreWriter, layout, link_shards, open_store

_BEGUN = "recording.json"
"""What an unfinished recording is of."""


@dataclass(frozen=True)
class CaptureSettings:
    """How to record."""

    rows: int | None = None
    """Stop when this many are recorded (the last context is kept whole); all when absent."""
    max_length: int = 256
    """Tokens of a context at most, special ones included."""
    batch_size: int = 32
    """Contexts run at once."""
    dtype: str = "float16"
    """Of the rows on disk: `float16`, `bfloat16` or `float32`."""
    tokens: str = "patch"
    """Of an image's positions: `patch`, `cls`, `register` or `all`."""
    stride: int | None = None
    """Tokens from one context's beginning to the next's; the context's length when absent."""
    pack: bool = False
    """Fill contexts with one document after the other instead of one document each."""
    compress: bool = False
    """Pack the rows with gzip: slow, but small where most values are zero."""

    def __post_init__(self) -> None:
        take_types(self)
        layout.check_dtype(self.dtype)
        if self.tokens not in TOKENS:
            raise SettingsError(f"tokens is {self.tokens!r}; expected {', '.join(TOKENS)}.")
        for name in ("rows", "max_length", "batch_size", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}; expected at least 1.")


def capture(
    host: Host | Any,
    recipe: Recipe | str | Path,
    sites: str | Iterable[str],
    out: str | Path,
    settings: CaptureSettings | None = None,
    *,
    resume: bool = False,
    force: bool = False,
) -> Store:
    """Record sites of a host over a recipe's inputs into a store.

    The host is stopped after its deepest site; padding and special tokens are left out. An
    interrupted recording keeps every committed row.

    Args:
        host: what `load_host` returned, or takes.
        recipe: what `load_dataset` returned, or takes.
        sites: names, globs, braces or raw paths.
        out: the store's folder.
        settings: how to record.
        resume: continue an unfinished recording, or a finished one with more `rows`; with one that
            has them all, do nothing.
        force: replace a finished store.

    Raises:
        HostNotFound: it is no host, and none can be made of it.
        SiteNotFound: a site's name stands for nothing.
        DatasetError: the recipe does not fit the host, cannot be read, or is empty.
        ShapeError: the host does not run on these inputs, or the sites have no common rows.
        StoreError: a value does not fit the dtype, the disk is full, or the unfinished recording
            is another one.
        OutputExists: `out` is there already.
    """
    settings = settings or CaptureSettings()
    host, recipe = host_of(host, by_name=True), as_recipe(recipe)
    found = host.find_sites(sites)
    for site in found:
        if site.kind not in ("", recipe.kind):
            raise DatasetError(
                f"{site.name} sees {site.kind}s, but dataset {recipe.name} holds {recipe.kind}s."
            )
    host = host.only(found, recipe.kind)
    provenance = provenance_of(host, recipe, found, settings)
    finished = open_store(out) if resume and Path(out).exists() else None
    if finished is not None and not _wants_more(finished, provenance):
        say(f"{out} is finished already; nothing to do.")
        return finished
    replaces = force or finished is not None
    how: dict[str, Any] = {"keep": "*.jsonl", "marks": ("manifest.json",), "drop": (_BEGUN,)}
    with whole_folder(out, force=replaces, resume=resume, **how) as partial:
        if finished is not None and not (partial / _BEGUN).exists():
            say(f"{out} has {finished.rows:,} rows; recording goes on after them.")
            link_shards(finished, partial)
        _check_same_recording(partial, provenance)
        _announce(found, settings, partial)
        if recipe.kind == "text":
            _announce_cut(host, settings)
        writer, grid = _record(host, recipe, found, settings, partial)
        if recipe.kind == "text":
            write_vocabulary(partial, host.tokenizer)
        more = {"grid": grid, "classes": class_names(recipe)}
        writer.finish(provenance | more, recording=recording_of(provenance))
    return open_store(out)


def _record(
    host: Host, recipe: Recipe, sites: list[Site], settings: CaptureSettings, partial: Path
) -> tuple[StoreWriter, tuple[int, int]]:
    """Run the host and write its rows; return the writer and an image's patch grid."""
    gatherer = RowGatherer(host, sites, settings.tokens)
    watch = SiteWatch(host, sites, gatherer.see, stop=True)
    writer: StoreWriter | None = None
    with ExitStack() as stack:
        advance = stack.enter_context(progress("capture", settings.rows))
        stack.enter_context(watch.attached())
        for batch in batches(host, recipe, **as_recorded(asdict(settings))):
            if writer is not None and batch.contexts[-1].index < writer.contexts:
                continue
            gatherer.expect(batch)
            host.run(batch.inputs)
            watch.check_fired_once()
            rows = gatherer.rows()
            if writer is None:
                infos = [
                    SiteInfo(
                        site.name,
                        rows.sites[site.name].shape[1],
                        settings.dtype,
                        settings.compress,
                    )
                    for site in sites
                ]
                writer = stack.enter_context(StoreWriter(partial, infos, recipe.kind))
                advance(writer.rows)
            if settings.rows is not None and writer.rows >= settings.rows:
                break
            rows = since(rows, writer.contexts)
            if settings.rows is not None:
                rows = cut(rows, settings.rows - writer.rows)
            writer.append(rows)  # without rows too: its contexts count
            advance(rows.count)
    if writer is None:
        raise DatasetError(f"dataset {recipe.name} holds nothing to record.")
    if settings.rows is not None and writer.rows < settings.rows:
        say(
            f"dataset {recipe.name} ended after {writer.rows:,} of the {settings.rows:,} rows that "
            "were asked for."
        )
    return writer, gatherer.grid


def _wants_more(store: Store, provenance: dict[str, Any]) -> bool:
    """Return whether a recording wants more rows than a finished store has.

    Raises:
        StoreError: it is another recording.
    """
    settings = provenance["settings"]
    rows = settings["rows"]
    before = store.provenance.get("settings") or {}
    if differing := _differing(
        provenance | {"settings": settings | {"rows": before.get("rows")}}, store.provenance
    ):
        raise StoreError(
            f"{store.folder} is finished, and was recorded with another {', '.join(differing)}; "
            "record into another folder, or replace it with --force."
        )
    if store.is_shuffled or "joined" in store.provenance:
        raise StoreError(
            f"{store.folder} was shuffled or merged; record into another folder, and merge the two."
        )
    return before.get("rows") is not None and (rows is None or rows > store.rows)


def recording_of(provenance: dict[str, Any]) -> str:
    """Return what the rows are of, however many there are: host, inputs and their contexts."""
    named = {name: provenance["settings"][name] for name in ("tokens", "max_length")}
    named |= {name: provenance["settings"][name] for name in ("stride", "pack")}
    what = [provenance["host"]["digest"], provenance["dataset"]["fingerprint"], named]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def provenance_of(
    host: Host, recipe: Recipe, sites: list[Site], settings: CaptureSettings
) -> dict[str, Any]:
    """Return what the rows depend on; a recording goes on only where all of it is the same."""
    check_kind(host, recipe)
    return {
        "host": {
            "name": host.name,
            "class": type(host.model).__name__,
            "parameters": host.parameters,
            "digest": host.digest,
            "family": host.hook_map.family if host.hook_map else None,
            "hook_map": host.hook_map.digest if host.hook_map else None,
        },
        "dataset": {
            "name": recipe.name,
            "about": recipe.about,
            "kind": recipe.kind,
            "fingerprint": recipe.fingerprint,
        },
        "sites": [asdict(site) for site in sites],
        "settings": asdict(settings),
        "special": frame_of(host.tokenizer).special.tolist() if recipe.kind == "text" else [],
        "versions": versions(),
    }


def _check_same_recording(partial: Path, provenance: dict[str, Any]) -> None:
    """Enter the provenance of a new recording; compare it with that of one to continue.

    Raises:
        StoreError: they differ; the message says in what.
    """
    path = partial / _BEGUN
    if not path.exists():
        write_whole(path, json.dumps(provenance, indent=1, sort_keys=True))
        return
    if differing := _differing(provenance, json.loads(path.read_text("utf-8"))):
        raise StoreError(
            f"{partial} was begun otherwise ({', '.join(differing)}). Finish it as it was begun, "
            "or drop it and start anew with --force."
        )


def _differing(provenance: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Return what a recording depends on and an earlier one had otherwise."""
    now = json.loads(json.dumps(provenance))
    return [key for key in now if now[key] != before.get(key)]


def _announce(sites: list[Site], settings: CaptureSettings, partial: Path) -> None:
    """Say how much disk the recording takes.

    Raises:
        StoreError: there is not that much.
    """
    widths = [site.width for site in sites]
    if settings.rows is None or None in widths:
        return
    width = sum(w for w in widths if w)
    size = settings.rows * (width * layout.DTYPES[settings.dtype][1].itemsize + 16)
    free = shutil.disk_usage(partial).free
    say(f"recording {settings.rows:,} rows x {width} = {size / 1e6:,.0f} MB of disk")
    if size > free:
        raise StoreError(
            f"the store takes {size / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB free; "
            "record fewer rows or sites."
        )


def _announce_cut(host: Host, settings: CaptureSettings) -> None:
    """Say where contexts are shorter than was asked for."""
    longest = longest_context(host, settings.max_length)
    if longest < settings.max_length:
        say(f"{host.name} reads {longest} tokens at most; contexts are no longer than that.")
