"""Why a dictionary cannot be written in a format: nothing is written that would say otherwise."""

from enum import Enum
from typing import NoReturn

from probe_sae.errors import SettingsError
from probe_sae.sae import PlainSAE


class Refused(Enum):
    """What a format lacks."""

    activation = "{library} has no {activation} features"
    transcoder = "{library} has no transcoders"
    transcoder_activation = "{library} has no transcoders of {activation} features"
    skip = "{library} has no skip past the features of an autoencoder"
    normalise = "{library} does not normalise rows, as this one does by {normalise}"
    must_normalise = "its TopK brings every row to mean 0 and deviation 1 first, this one does not"
    widths = "its rows are as long before as behind it; here {d_model} and {d_out}"


def refuse(library: str, sae: PlainSAE, why: Refused) -> NoReturn:
    """Say what a format lacks.

    Raises:
        SettingsError: always.
    """
    settings = sae.settings
    reason = why.value.format(
        library=library,
        activation=settings.activation,
        normalise=settings.normalise,
        d_model=sae.d_model,
        d_out=sae.d_out,
    )
    raise SettingsError(
        f"this dictionary cannot be written for {library}: {reason}. "
        "`probe-sae guide exchange` has a table of what can."
    )
