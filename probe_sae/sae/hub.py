"""The Hugging Face hub: an id to a local folder, a folder to a repository.

A download is as untrusted as any folder: only weights and the small texts beside them are fetched,
and nothing is executed. It lies in the hub's own cache, so that a second load costs a look-up.
"""

import glob
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from probe_sae.errors import EndpointError
from probe_sae.progress import say
from probe_sae.sae.card_mark import may_replace
from probe_sae.sae.hub_access import Access, Unreachable, explained, is_offline, quiet_bars
from probe_sae.sae.hub_files import check_sizes, wanted_files
from probe_sae.sae.hub_ids import Place, at_revision, checked_repository, place_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OURS = ("config.json", "sae.safetensors", "log.jsonl")
"""Files of a dictionary of ours that a load reads."""
TIMEOUT = 10
"""Seconds within which the hub answers."""


def fetch_folder(
    name: str,
    *,
    revision: str | None = None,
    access: Access | None = None,
    only: Sequence[str] = (),
) -> Path:
    """Return the local folder (or file, where the id names one) of a dictionary on the hub.

    Its own files are downloaded where the cache has not got them: weights, and JSON and YAML beside
    them; never other folders of the repository.

    Args:
        name: `hf:user/name/folder@revision`, or `saelens:RELEASE/ID`; see `place_of`.
        revision: branch, tag or commit; that in the name, or the main branch, by default.
        access: how the hub is reached.
        only: names of the files that are wanted, where they are known.

    Raises:
        EndpointError: the hub cannot be reached, has no such repository or revision, or wants a
            token; offline, the cache has not got it.
        FormatError: the id or the folder holds no dictionary, or more than can be one.
    """
    place, access = place_of(name), access or Access()
    if revision is not None:
        place = at_revision(place, revision)
    if access.local_files_only or is_offline():
        return _cached(place, access)
    try:
        with explained(place, access):
            return _downloaded(place, access, only)
    except Unreachable as unreachable:
        try:
            found = _cached(place, access)
        except EndpointError:
            raise unreachable from None
        say(f"{unreachable} Taken from the cache of downloads.")
        return found


def send_folder(
    folder: Path,
    repository: str,
    *,
    files: Sequence[str],
    unless_there: Sequence[str] = (),
    private: bool | None = None,
    message: str = "",
    access: Access | None = None,
) -> str:
    """Commit some files of a folder to a repository, made where there is none; return its address.

    Args:
        folder: where the files are.
        repository: `user/name`.
        files: their names.
        unless_there: names of cards, which stay as they are where the repository has one that a
            person has edited, or that says more.
        private: whether a new repository is; the user's setting by default.
        message: of the commit.
        access: how the hub is reached.

    Raises:
        EndpointError: the hub cannot be reached, or refuses.
        FormatError: that is no name of a repository.
    """
    access = access or Access()
    place = Place(checked_repository(repository, repository), "")
    if is_offline():
        raise EndpointError(
            f"cannot push to {repository}: HF_HUB_OFFLINE is set, so that nothing goes online. "
            "Unset it."
        )
    from huggingface_hub import HfApi

    api = HfApi(**access.options())
    with explained(place, access):
        address = api.create_repo(repository, private=private, exist_ok=True)
        kept = [name for name in unless_there if not _may_be_sent(api, repository, folder / name)]
        for name in kept:
            say(f"{repository} has a {name} already, which stays as it is.")
        names = {*files, *unless_there} - set(kept)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in sorted(names)],
            commit_message=message or "Add a dictionary of probe_sae",
        )
    return str(address)


def _may_be_sent(api: "HfApi", repository: str, card: Path) -> bool:
    """Whether a repository has no such card, or one that this one may replace."""
    if not api.file_exists(repository, card.name):
        return True
    with tempfile.TemporaryDirectory() as folder:
        there = api.hf_hub_download(repository, card.name, local_dir=folder)
        old = Path(there).read_text("utf-8", "replace")
    return may_replace(card.read_text("utf-8"), old)


def _cached(place: Place, access: Access) -> Path:
    """Return what the cache has of a place.

    Raises:
        EndpointError: nothing.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            place.repository,
            revision=place.revision,
            cache_dir=access.cache_dir,
            local_files_only=True,
            allow_patterns=[],  # whatever is there: a load says what lacks
        )
    except LocalEntryNotFoundError as problem:
        raise EndpointError(_not_cached(place)) from problem
    found = Path(snapshot) / place.path
    if not found.is_file() and not (found.is_dir() and any(found.iterdir())):
        raise EndpointError(_not_cached(place))
    return found


def _not_cached(place: Place) -> str:
    return (
        f"{place} is not in the cache of downloads, and nothing may go online "
        "(HF_HUB_OFFLINE or local_files_only). Load it once online, or give a local folder."
    )


def _downloaded(place: Place, access: Access, only: Sequence[str]) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi(**access.options())
    # Asked once, within a time; the client asks for a listing again and again for half a minute.
    api.repo_info(place.repository, revision=place.revision, timeout=TIMEOUT)
    files = wanted_files(api, place, only)
    check_sizes(files, place, access)
    snapshot = snapshot_download(
        place.repository,
        revision=place.revision,
        cache_dir=access.cache_dir,
        allow_patterns=[glob.escape(path) for path in files],
        tqdm_class=quiet_bars(),
        **access.options(),
    )
    return Path(snapshot) / place.path
