"""Hugging Face's conventions on our folders: save, load by name, push."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from probe_sae.errors import FormatError
from probe_sae.outputs import path_of, whole_folder, write_whole
from probe_sae.progress import say

if TYPE_CHECKING:
    from probe_sae.sae.card import Measured
    from probe_sae.sae.dictionary import SAE

CARD = "README.md"


class Pretrained:
    """Saves, loads and shares a dictionary as users of the Hugging Face hub expect it."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        metrics: "Measured | Mapping[str, Any] | None" = None,
        force: bool = False,
    ) -> None:
        """Write the dictionary and its model card into a folder.

        Args:
            folder: where to; it must not exist yet, or be empty.
            metrics: what `evaluate` returned, for the card.
            force: replace a dictionary that is there.

        Raises:
            OutputExists: something is there already.
        """
        folder = Path(folder)
        is_empty = folder.is_dir() and not any(folder.iterdir())
        with whole_folder(folder, force=force or is_empty, marks=("config.json",)) as partial:
            _write(cast("SAE", self), partial, metrics)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        endpoint: str | None = None,
    ) -> Self:
        """Return a dictionary of ours from a folder, or from the hub by its name.

        `ps.load_sae` reads other libraries' dictionaries too.

        Args:
            name_or_folder: a folder that is here, `user/name`, or an id as `hf:user/name/folder`.
            revision: branch, tag or commit.
            subfolder: of the folder or the repository.
            token: of the hub; the stored one by default.
            cache_dir: where downloads lie; the hub's own cache by default.
            local_files_only: take what is in the cache, and do not go online.
            endpoint: address of the hub, where it is another than HF_ENDPOINT.

        Raises:
            FormatError: there is no dictionary, or a damaged one, or one of another architecture
                than this class.
            EndpointError: the hub cannot be reached, has nothing of that name, or wants a token.
        """
        from probe_sae.sae.checkpoint import load_sae
        from probe_sae.sae.hub import OURS, Access, fetch_folder
        from probe_sae.sae.hub_ids import is_hub_id

        here = path_of(name_or_folder).expanduser()
        if here.exists():
            where = here / subfolder
        else:
            name = str(name_or_folder)
            name, _, at = (name if is_hub_id(name) else f"hf:{name}").partition("@")
            if subfolder:
                name = f"{name}/{subfolder}"
            access = Access(token, cache_dir, local_files_only, endpoint)
            where = fetch_folder(name, revision=revision or at or None, access=access, only=OURS)
        sae = load_sae(where)
        if not isinstance(sae, cls):
            raise FormatError(
                f"{name_or_folder} is a dictionary of {sae.settings.arch}, not {cls.__name__}; "
                "SAE.from_pretrained takes any."
            )
        return sae

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "",
        metrics: "Measured | Mapping[str, Any] | None" = None,
        endpoint: str | None = None,
    ) -> str:
        """Put the dictionary on the hub, with a model card; return its address.

        A card that the repository has already stays.

        Args:
            repository: `user/name`; made where there is none.
            private: whether a new repository is; the user's setting by default.
            token: of the hub, with the right to write; the stored one by default.
            commit_message: what changed.
            metrics: what `evaluate` returned, for the card.
            endpoint: address of the hub, where it is another than HF_ENDPOINT.

        Raises:
            EndpointError: the hub cannot be reached, or refuses.
            FormatError: that is no name of a repository.
        """
        with tempfile.TemporaryDirectory() as folder:
            _write(cast("SAE", self), Path(folder), metrics, repository)
            how = {"private": private, "message": commit_message, "unless_there": (CARD,)}
            return _send(Path(folder), repository, token, endpoint, how)


def push_folder(
    folder: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "",
    metrics: Mapping[str, Any] | None = None,
    endpoint: str | None = None,
) -> str:
    """Put the dictionary in a folder on the hub as it is; return its address.

    A README.md that lies there goes with it. Without one, a card is written there, and sent unless
    the repository has one.

    Args:
        folder: the dictionary's.
        repository: see `SAE.push_to_hub`, as for all that follow.
        private: of a new repository.
        token: of the hub.
        commit_message: what changed.
        metrics: for the card.
        endpoint: address of the hub.

    Raises:
        FormatError: there is no dictionary, or a damaged one.
        EndpointError: the hub cannot be reached, or refuses.
    """
    from probe_sae.sae.card import card_text
    from probe_sae.sae.checkpoint import load_sae
    from probe_sae.sae.hub_ids import checked_repository

    sae, card = load_sae(folder), Path(folder) / CARD
    how: dict[str, Any] = {"private": private, "message": commit_message}
    if card.exists():
        how["files"] = (CARD,)
        if metrics is not None:
            say(f"{card} is sent as it is, without these metrics; remove it for a new one.")
    else:
        write_whole(card, card_text(sae, metrics, checked_repository(repository, repository)))
        how["unless_there"] = (CARD,)
    return _send(Path(folder), repository, token, endpoint, how)


def _send(
    folder: Path,
    repository: str,
    token: str | bool | None,
    endpoint: str | None,
    how: dict[str, Any],
) -> str:
    from probe_sae.sae.hub import OURS, Access, send_folder

    files = (*OURS, *how.pop("files", ()))
    access = Access(token=token, endpoint=endpoint)
    return send_folder(folder, repository, files=files, access=access, **how)


def _write(
    sae: "SAE",
    folder: Path,
    metrics: "Measured | Mapping[str, Any] | None",
    repository: str = "",
) -> None:
    """Write dictionary and card; the dictionary stays on its device."""
    from probe_sae.sae.card import card_text
    from probe_sae.sae.checkpoint import save_sae

    device = sae.input_scale.device
    save_sae(folder, sae)
    sae.to(device)
    write_whole(folder / CARD, card_text(sae, metrics, repository))
