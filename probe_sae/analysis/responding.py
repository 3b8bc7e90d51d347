"""What features do on inputs of a person's own, at the place that matters in each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.code_matrix import code_matrix, pooled_codes
from probe_sae.analysis.factors import RESPONDS, FactorEffects, factor_effects
from probe_sae.analysis.host_runs import Runs, batches_of, inputs_of, sites_for
from probe_sae.analysis.varied import Varied
from probe_sae.errors import SettingsError
from probe_sae.host import Host
from probe_sae.interop import as_sae
from probe_sae.progress import say
from probe_sae.recording import Batch
from probe_sae.sae import SAE
from probe_sae.shown import Tabled, clean
from probe_sae.store import RecordedRows

PLACES = ("last", "max", "mean", "factor")


@dataclass(frozen=True, repr=False)
class Responses(Tabled):
    """Activations on inputs that vary in one factor."""

    values: Any
    """SciPy CSR, [inputs, features]."""
    varied: Varied
    sites: tuple[str, ...]
    at: str

    def effects(self, *, permutations: int = 1000, seed: int = 0) -> FactorEffects:
        """Return which features respond to the factor; see `FactorEffects`.

        Args:
            permutations: deals of the levels in a round; see `factor_effects`.
            seed: of the deals.
        """
        found = factor_effects(
            self.values,
            self.varied.level,
            self.varied.group,
            levels=self.varied.levels,
            is_ordered=self.varied.is_ordered,
            permutations=permutations,
            seed=seed,
        )
        needed = RESPONDS / max(1, len(found.feature))
        if found.lowest_p > needed:
            say(
                f"with {len(self.varied)} inputs no p falls below {found.lowest_p:.2g}, and of "
                f"{len(found.feature)} features one that responds alone needs {needed:.2g}: add "
                "templates, images or levels."
            )
        return found

    def table(self) -> Any:
        """Return one line a feature as a pandas DataFrame, the strongest that respond first."""
        return self.effects().table()

    def curve(self, feature: int) -> NDArray[np.float64]:
        """Return a feature's mean activation at each level, [levels]."""
        values = self.values[:, [feature]].toarray()[:, 0]
        level = self.varied.level
        sizes = np.bincount(level, minlength=len(self.varied.levels))
        return np.bincount(level, values, minlength=len(sizes)) / np.maximum(1, sizes)


@dataclass(frozen=True, repr=False)
class Contrast(Tabled):
    """Mean activations on two sets of inputs."""

    a: NDArray[np.float64]
    """[features]"""
    b: NDArray[np.float64]
    """[features]"""

    def table(self) -> Any:
        """Return the features that fire on either as a pandas DataFrame, by difference b - a."""
        import pandas as pd

        some = np.flatnonzero((self.a != 0) | (self.b != 0))
        difference = self.b[some] - self.a[some]
        columns = {"feature": some, "a": self.a[some], "b": self.b[some], "difference": difference}
        order = np.argsort(-np.abs(difference), kind="stable")
        return pd.DataFrame(columns).iloc[order].reset_index(drop=True)


def responses(
    host: Host,
    sae: SAE | str,
    inputs: Varied,
    site: str | None = None,
    *,
    at: str | None = None,
    tokens: str = "patch",
    batch_size: int = 32,
) -> Responses:
    """Return what features do on controlled inputs, one value an input and feature.

    Args:
        host: the model.
        sae: the dictionary, or its folder.
        inputs: what `vary`, `vary_images` or `vary_tensors` returned.
        site: where; the dictionary's own by default.
        at: `last` token or position, `mean` or `max` over all of them, or `factor`, the last token
            of the factor in the text. By default `last` of text, `mean` of anything else.
        tokens: which positions of an image count: `patch`, `cls` or `all`, as it was recorded.
        batch_size: inputs that the host runs on at a time.

    Raises:
        SettingsError: the inputs do not fit the host, or have no such place.
        SiteNotFound: the host has no such site.
        ShapeError: the site's rows are not what the dictionary takes.
    """
    where = at or ("last" if inputs.kind == "text" else "mean")
    values, sites = _values(host, sae, inputs, site, where, tokens, batch_size)
    return Responses(values, inputs, sites, where)


def contrast(
    host: Host,
    sae: SAE | str,
    a: Any,
    b: Any,
    site: str | None = None,
    *,
    at: str = "mean",
    tokens: str = "patch",
    batch_size: int = 32,
) -> Contrast:
    """Compare two inputs, or the means of two sets of them, feature by feature.

    Args:
        host: the model.
        sae: the dictionary, or its folder.
        a: a text, an image or a tensor, or several of one kind.
        b: what to compare it with.
        site: where; the dictionary's own by default.
        at: `last`, `mean` or `max` over positions.
        tokens: which positions of an image count.
        batch_size: inputs that the host runs on at a time.

    Raises:
        SettingsError: the inputs do not fit the host, or `at` is something else.
        SiteNotFound: the host has no such site.
        ShapeError: the site's rows are not what the dictionary takes.
    """
    means = [
        np.asarray(_values(host, sae, x, site, at, tokens, batch_size)[0].mean(0)).ravel()
        for x in (a, b)
    ]
    return Contrast(means[0], means[1])


def _values(
    host: Host, sae: SAE | str, given: Any, site: str | None, at: str, tokens: str, batch_size: int
) -> tuple[Any, tuple[str, ...]]:
    """Return the features' activation on each input, CSR [inputs, features], and the sites."""
    from scipy.sparse import vstack

    sae = as_sae(sae)
    inputs = inputs_of(host, given)
    spans = given.spans if isinstance(given, Varied) else None
    if at not in PLACES:
        raise SettingsError(f"at is {at!r}; expected {', '.join(PLACES)}.")
    if at == "factor" and spans is None:
        raise SettingsError("only texts that `vary` made have a place of the factor.")
    sites = sites_for(host, sae, site)
    runs = Runs(host, sites, inputs.kind, tokens)
    parts: list[Any] = []
    for batch in batches_of(host, given, batch_size=batch_size):
        rows = runs.rows(batch)
        codes = code_matrix(sae, runs.encoded(sae, rows))
        first = batch.contexts[0].index
        owner = rows.columns["context"].astype(np.int64) - first
        if at in ("mean", "max"):
            parts.append(pooled_codes(codes, owner, len(batch.contexts), at))
            continue
        ends = np.searchsorted(owner, np.arange(len(batch.contexts) + 1))
        if (np.diff(ends) == 0).any():
            raise SettingsError("an input has no rows: nothing of it is recorded at this site.")
        taken = ends[1:] - 1
        if at == "factor" and spans is not None:
            taken = ends[:-1] + _factor_rows(host, inputs.items, spans, batch, rows)
        parts.append(codes[taken])
    return vstack(parts, format="csr"), tuple(found.name for found in sites)


def _factor_rows(
    host: Host,
    texts: tuple[str, ...],
    spans: tuple[tuple[int, int], ...],
    batch: Batch,
    rows: RecordedRows,
) -> NDArray[np.int64]:
    """Return which of its context's rows is the last token of the factor, [batch]."""
    special = set(host.tokenizer.all_special_ids)
    found: list[int] = []
    for context in batch.contexts:
        start, stop = spans[context.index]
        try:
            read = host.tokenizer(
                clean(texts[context.index]), add_special_tokens=False, return_offsets_mapping=True
            )
        except NotImplementedError as problem:
            raise SettingsError(
                f"the tokenizer of {host.name} does not say where its tokens stand; choose last, "
                "mean or max."
            ) from problem
        ids, offsets = read["input_ids"], read["offset_mapping"]
        inside = [
            i
            for i, (low, high) in enumerate(offsets)
            if low < stop and high > start and ids[i] not in special
        ]
        if not inside:
            raise SettingsError(
                f"no token of {texts[context.index]!r} shows its factor, at {start} to {stop}."
            )
        found.append(inside[-1] - sum(ids[i] in special for i in range(inside[-1])))
    return np.array(found, np.int64)
