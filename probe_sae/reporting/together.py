"""Who fires with whom inside modules, and which modules go together: `data/together.js`."""

from typing import Any

import numpy as np

from probe_sae.analysis.result import Analysis
from probe_sae.reporting.encoding import narrow, pack, signed16

LINKS = 8
"""Modules that are named beside a module."""


def together(analysis: Analysis) -> dict[str, Any]:
    """Return all pairs of members of a module, and each module's strongest links to others.

    Pairs by first feature: `counts` [features], `seconds` and `phis` [pairs] in 32767ths. Links by
    module: `link_counts` [modules], `link_modules`, and `link_phis` [links], the mean phi of the
    pairs between them that are among a feature's 32 strongest, times their number over that of all
    pairs between.
    """
    module, pairs = analysis.columns.module, analysis.pairs
    first, second = module[pairs.first], module[pairs.second]
    inside = (first >= 0) & (first == second)
    counts = np.bincount(pairs.first[inside], minlength=analysis.count)
    links = _links(analysis)
    return pack(
        {
            "counts": narrow(counts),
            "seconds": narrow(pairs.second[inside]),
            "phis": signed16(pairs.phi[inside]),
            "link_counts": narrow(np.array([len(found) for found in links], np.int64)),
            "link_modules": narrow(np.array([m for found in links for m, _ in found], np.int64)),
            "link_phis": signed16(np.array([phi for found in links for _, phi in found])),
        }
    )


def _links(analysis: Analysis) -> list[list[tuple[int, float]]]:
    module, pairs = analysis.columns.module, analysis.pairs
    number = int(module.max(initial=-1)) + 1
    first, second = module[pairs.first], module[pairs.second]
    between = (first >= 0) & (second >= 0) & (first != second)
    sizes = np.bincount(module[module >= 0], minlength=number)
    one, two = first[between].astype(np.int64), second[between].astype(np.int64)
    # A pair may be among the strongest of one of the two, or of both.
    low = np.minimum(pairs.first, pairs.second)[between]
    high = np.maximum(pairs.first, pairs.second)[between]
    _, once = np.unique(low * analysis.count + high, return_index=True)
    keys, place = np.unique(
        np.concatenate([one[once] * number + two[once], two[once] * number + one[once]]),
        return_inverse=True,
    )
    sums = np.bincount(place, np.tile(pairs.phi[between][once], 2), len(keys))
    links: list[list[tuple[int, float]]] = [[] for _ in range(number)]
    for key, total in zip(keys.tolist(), sums.tolist(), strict=True):
        mine, theirs = divmod(key, number)
        links[mine].append((theirs, total / float(sizes[mine] * sizes[theirs])))
    return [sorted(found, key=lambda link: (-link[1], link[0]))[:LINKS] for found in links]
