"""The manifest: what a store is. It holds the digests of everything else, and its own."""

import hashlib
import json
from pathlib import Path
from typing import Any

from probe_sae.errors import StoreError
from probe_sae.outputs import nothing_at, write_whole
from probe_sae.store import layout
from probe_sae.store.journal import file_digest, read_journal
from probe_sae.store.layout import SiteInfo
from probe_sae.store.statistics import RowStatistics

_FILES = ("journal.jsonl", "vocabulary.json")
MAX_BYTES = 1 << 30


def write_manifest(
    folder: Path,
    *,
    kind: str,
    sites: dict[str, SiteInfo],
    statistics: dict[str, RowStatistics],
    provenance: dict[str, Any],
    recording: str | None,
    shuffled: dict[str, Any] | None,
) -> None:
    """Write the manifest of a folder whose journal and shards are complete."""
    journal = folder / "journal.jsonl"
    lines = read_journal(journal)
    manifest = {
        "format": layout.FORMAT,
        "version": layout.VERSION,
        "kind": kind,
        "rows": sum(line.rows for line in lines),
        "contexts": sum(line.contexts for line in lines),
        "documents": max((line.document_base + line.documents for line in lines), default=0),
        "sites": {
            site.name: {"width": site.width, "dtype": site.dtype, "compressed": site.compressed}
            for site in sites.values()
        },
        "statistics": {name: seen.to_json() for name, seen in statistics.items()},
        "provenance": provenance,
        "recording": recording or file_digest(journal),
        "shuffled": shuffled,
    }
    write_whole(folder / "manifest.json", signed(folder, manifest))


def signed(folder: Path, manifest: dict[str, Any]) -> str:
    """Return a manifest's text, with the digests of the small files beside it and its own."""
    files = {name: file_digest(folder / name) for name in _FILES if (folder / name).exists()}
    whole = manifest | {"files": files}
    whole.pop("sha256", None)
    return _text(whole | {"sha256": hashlib.sha256(_text(whole).encode()).hexdigest()})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a store, whose small files are those that were written.

    Raises:
        StoreError: there is none, it or one of the files is damaged, or it is of a newer version.
    """
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise StoreError(f"{path} is over a gigabyte; refused.")
        text = path.read_text("utf-8")
        manifest = json.loads(text)
    except FileNotFoundError as problem:
        raise StoreError(nothing_at(folder, "store", path.name)) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise StoreError(f"{path} cannot be read: {problem}") from problem
    if not isinstance(manifest, dict) or manifest.get("format") != layout.FORMAT:
        raise StoreError(f"{path} is not the manifest of a store of probe_sae.")
    if manifest.get("version") != layout.VERSION:
        raise StoreError(
            f"{folder} is a store of version {manifest.get('version')}; this probe_sae reads "
            f"version {layout.VERSION}. Update probe_sae."
        )
    _check_digests(folder, manifest, text)
    return manifest


def _check_digests(folder: Path, manifest: dict[str, Any], text: str) -> None:
    unsigned = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(_text(unsigned).encode("utf-8", "surrogatepass")).hexdigest()
    if manifest.get("sha256") != digest or _text(manifest) != text:
        raise StoreError(f"{folder}/manifest.json is damaged: its bytes are not those written.")
    files = manifest.get("files")
    if not isinstance(files, dict) or "journal.jsonl" not in files:
        raise StoreError(f"{folder}/manifest.json is damaged: it has no digest of the journal.")
    for name in _FILES:
        path = folder / name
        if path.is_symlink():
            raise StoreError(f"{path} is a link; refused.")
        if path.exists() != (name in files) or (name in files and file_digest(path) != files[name]):
            raise StoreError(f"{path} is damaged: its bytes are not those written.")


def _text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True)
