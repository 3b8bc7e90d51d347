"""How the Hugging Face hub is reached, and what its client's errors mean to a person."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe_sae.errors import EndpointError, ProbeSaeError
from probe_sae.sae.hub_ids import Place


@dataclass(frozen=True)
class Access:
    """How the hub is reached."""

    token: str | bool | None = None
    """The stored one by default; False for none."""
    cache_dir: str | Path | None = None
    """Where downloads lie; the hub's own cache by default."""
    local_files_only: bool = False
    """Take what is in the cache, and do not go online."""
    endpoint: str | None = None
    """Address of the hub; HF_ENDPOINT, or https://huggingface.co, by default."""

    def options(self) -> dict[str, Any]:
        """Return the arguments that the hub's client takes."""
        return {"token": self.token, "endpoint": self.endpoint, "library_name": "probe_sae"}


class Unreachable(EndpointError):
    """The hub does not answer, or not as a hub does; the cache may have what is wanted."""


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def quiet_bars() -> Any:
    """Return the client's progress bar, silent where stderr is no terminal."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            if not sys.stderr.isatty():
                options["disable"] = True
            super().__init__(*args, **options)

    return Bar


@contextmanager
def explained(place: Place, access: Access) -> Generator[None]:
    """Turn the errors of the hub's client into ours, with what to do.

    Raises:
        EndpointError: the client raised.
    """
    from huggingface_hub import constants, errors

    where = access.endpoint or constants.ENDPOINT
    unreachable: Any = errors.HfHubHTTPError.__bases__[
        0
    ]  # the client's HTTP library's, whichever it is
    login = "`hf auth login`, or give token="
    try:
        yield
    except ProbeSaeError:
        raise
    except errors.GatedRepoError as problem:
        raise EndpointError(
            f"{place.repository} is gated: accept its conditions at {where}/{place.repository}, "
            f"then log in ({login})."
        ) from problem
    except errors.RepositoryNotFoundError as problem:
        raise EndpointError(
            f"{where} shows no repository {place.repository}: is it spelled so? If it is private, "
            f"log in ({login})."
        ) from problem
    except errors.RevisionNotFoundError as problem:
        raise EndpointError(
            f"{place.repository} has no revision {place.revision!r}; expected a branch, tag or "
            "commit."
        ) from problem
    except errors.LocalTokenNotFoundError as problem:
        raise EndpointError(f"no token is stored on this machine: {login}.") from problem
    except errors.HfHubHTTPError as problem:
        status = getattr(problem.response, "status_code", None)
        advice = (
            f" A token with the right to write is wanted: {login}." if status in (401, 403) else ""
        )
        raise EndpointError(
            f"{where} refuses {place.repository} ({_first_line(problem)}).{advice}"
        ) from problem
    except (OSError, ValueError, KeyError, TypeError, unreachable) as problem:
        raise Unreachable(
            f"{where} cannot be reached, or its answer read, for {place.repository} "
            f"({_first_line(problem)}). Try again, or give a local folder."
        ) from problem


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
