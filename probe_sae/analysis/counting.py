"""The pass over codes: everything that is counted and kept of them."""

from dataclasses import dataclass

from probe_sae.analysis.by_feature import ByFeature
from probe_sae.analysis.codes import Codes
from probe_sae.analysis.cofiring import CoFiring
from probe_sae.analysis.tally import Tally
from probe_sae.progress import progress


@dataclass(frozen=True)
class Counted:
    """What one pass over codes leaves."""

    tally: Tally
    cofiring: CoFiring


def count(codes: Codes, tokens: int, grid: tuple[int, int] | None = None, seed: int = 0) -> Counted:
    """Go once over codes; memory grows with features, not with rows.

    At 10 million rows of 32 firings of 16,384 features: see `tests/benchmarks/analysis.py`.

    Args:
        codes: of whole contexts.
        tokens: number of token ids or classes.
        grid: height and width of an image's rows; None for text.
        seed: of the sample of firings.

    Raises:
        FormatError: a part of the codes is damaged.
    """
    tally, cofiring = Tally(codes.features, tokens, grid, seed), CoFiring(codes.features)
    with progress("analyse", codes.rows) as advance:
        for block in codes.blocks():
            firings = ByFeature.of(block, codes.features)
            tally.add(firings)
            cofiring.add(firings)
            advance(len(block))
    return Counted(tally, cofiring)
