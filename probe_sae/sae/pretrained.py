"""Hugging Face's conventions on our folders: save, load by name, push."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from probe_sae.errors import FormatError, SettingsError, near
from probe_sae.outputs import path_of, whole_folder, write_whole
from probe_sae.progress import say

if TYPE_CHECKING:
    from probe_sae.sae.card import Metrics
    from probe_sae.sae.dictionary import SAE

CARD = "README.md"


class Pretrained:
    """Saves, loads and shares a dictionary as users of the Hugging Face hub expect it."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        metrics: "Metrics | None" = None,
        force: bool = False,
    ) -> None:
        """Write the dictionary and its model card into a folder.

        Args:
            folder: where to; it must not exist yet, or be empty.
            metrics: what `evaluate` returned, or the path of what it wrote, for the card.
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
        **others: Any,
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
            others: nothing; what other libraries take is named as such.

        Raises:
            SettingsError: an option that there is not.
            FormatError: there is no dictionary, or a damaged one, or one of another architecture
                than this class.
            EndpointError: the hub cannot be reached, has nothing of that name, or wants a token.
        """
        from probe_sae.sae.checkpoint import load_sae
        from probe_sae.sae.hub import OURS, Access, fetch_folder
        from probe_sae.sae.hub_ids import is_hub_id

        _refuse(others)
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
        metrics: "Metrics | None" = None,
        endpoint: str | None = None,
    ) -> str:
        """Put the dictionary on the hub, with a model card; return its address.

        A card that the repository has already stays, where a person has edited it or it has
        metrics and none are given.

        Args:
            repository: `user/name`; made where there is none.
            private: whether a new repository is; the user's setting by default.
            token: of the hub, with the right to write; the stored one by default.
            commit_message: what changed.
            metrics: see `save_pretrained`.
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
    metrics: "Metrics | None" = None,
    endpoint: str | None = None,
) -> str:
    """Put the dictionary in a folder on the hub as it is; return its address.

    A README.md that lies there and was edited goes with it. Else a card is written there, with the
    metrics of the one before where none are given, and sent unless the repository has a better one.

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
    from probe_sae.sae.card import as_table, card_text
    from probe_sae.sae.card_mark import is_as_written, measured_in
    from probe_sae.sae.checkpoint import load_sae
    from probe_sae.sae.hub_ids import checked_repository

    sae, card = load_sae(folder), Path(folder) / CARD
    how: dict[str, Any] = {"private": private, "message": commit_message}
    metrics = None if metrics is None else as_table(metrics)
    before = card.read_text("utf-8", "replace") if card.exists() else None
    if before is not None and not is_as_written(before):
        how["files"] = (CARD,)
        if metrics is not None:
            say(f"{card} was edited, and is sent without these metrics; remove it for a new one.")
        return _send(Path(folder), repository, token, endpoint, how)
    where = checked_repository(repository, repository)
    new = card_text(sae, metrics, where, measured_in(before or ""))
    how["unless_there"] = (CARD,)
    try:
        write_whole(card, new)
        return _send(Path(folder), repository, token, endpoint, how)
    except BaseException:
        if before is None:
            card.unlink(missing_ok=True)
        else:
            write_whole(card, before)
        raise


def _refuse(options: Mapping[str, Any]) -> None:
    """Raise where there are options that `from_pretrained` has not.

    Raises:
        SettingsError: there are.
    """
    if not options:
        return
    moves = {"device", "device_map", "dtype", "torch_dtype"} & options.keys()
    known = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "endpoint")
    advice = (
        " A dictionary comes on the CPU, in float32; move it with .to(...)."
        if moves
        else "".join(near(name, known) for name in options)
    )
    raise SettingsError(
        f"from_pretrained takes no {', '.join(options)}; it takes {', '.join(known)}.{advice}"
    )


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
    metrics: "Metrics | None",
    repository: str = "",
) -> None:
    """Write dictionary and card; the dictionary stays on its device."""
    from probe_sae.sae.card import card_text
    from probe_sae.sae.checkpoint import save_sae

    card, device = card_text(sae, metrics, repository), sae.input_scale.device
    save_sae(folder, sae)
    sae.to(device)
    write_whole(folder / CARD, card)
