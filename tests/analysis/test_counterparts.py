"""An analysis keeps its decoder directions, and two of the same site are matched by them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from probe_sae.analysis import Analysis, analyse, load_analysis, save_analysis
from probe_sae.analysis.counterparts import counterparts
from probe_sae.errors import FormatError, SettingsError

from .small import dictionary, make_store


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("counterparts")
    return analyse(dictionary(), make_store(folder / "store"), folder / "analysis")


def turned(analysis: Analysis, seed: int = 1, noise: float = 0.5) -> Analysis:
    """The same analysis with other directions: noisy copies, in another order."""
    rng = np.random.default_rng(seed)
    assert analysis.directions is not None
    other = analysis.directions[rng.permutation(analysis.count)].astype(np.float32)
    other += noise * rng.standard_normal(other.shape).astype(np.float32) / 3
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return replace(analysis, directions=other.astype(np.float16))


def with_info(analysis: Analysis, **changes: Any) -> Analysis:
    return replace(analysis, info={**analysis.info, **changes})


def test_an_analysis_keeps_unit_directions(analysis: Analysis, tmp_path: Path) -> None:
    save_analysis(analysis, tmp_path)

    read = load_analysis(tmp_path).directions
    assert read is not None
    exact = torch.nn.functional.normalize(dictionary().directions().double(), dim=1).numpy()
    assert read.dtype == np.float16
    assert np.abs(read.astype(float) - exact).max() <= 2**-11


def test_an_analysis_without_directions_is_read(analysis: Analysis, tmp_path: Path) -> None:
    save_analysis(replace(analysis, directions=None), tmp_path)

    assert load_analysis(tmp_path).directions is None


@pytest.mark.parametrize("harm", ["short", "kind", "infinite"])
def test_spoilt_directions_are_refused(analysis: Analysis, tmp_path: Path, harm: str) -> None:
    save_analysis(analysis, tmp_path)
    with h5py.File(tmp_path / "analysis.h5", "r+") as file:
        data: Any = np.asarray(file["directions"])
        del file["directions"]
        spoilt = {"short": data[:-1], "kind": data.astype(np.int16), "infinite": data * np.inf}
        file["directions"] = spoilt[harm]

    with pytest.raises(FormatError, match="contradicts itself: directions"):
        load_analysis(tmp_path)


def test_counterparts_are_those_of_brute_force(analysis: Analysis) -> None:
    other = turned(analysis)
    assert analysis.directions is not None
    assert other.directions is not None
    alive = np.flatnonzero(analysis.columns.firings > 0)
    dead = np.flatnonzero(analysis.columns.firings == 0)

    found = counterparts(analysis, other)

    cosines = analysis.directions.astype(float) @ other.directions.astype(float).T
    cosines /= np.linalg.norm(analysis.directions.astype(float), axis=1)[:, None]
    cosines /= np.linalg.norm(other.directions.astype(float), axis=1)
    among = cosines[np.ix_(alive, alive)]
    assert dead.size > 0
    assert np.array_equal(found.a.best[alive], alive[among.argmax(1)])
    assert np.array_equal(found.b.best[alive], alive[among.argmax(0)])
    assert np.allclose(found.a.best_cosine[alive], among.max(1), atol=1e-6)
    assert (found.a.best[dead] == -1).all()
    assert np.isnan(found.a.pair_cosine[dead]).all()
    paired = np.flatnonzero(found.a.pair >= 0)
    assert np.array_equal(found.b.pair[found.a.pair[paired]], paired)
    assert np.allclose(found.a.pair_cosine[paired], cosines[paired, found.a.pair[paired]])
    mutual = [i for i in alive if found.b.best[found.a.best[i]] == i]
    assert len(mutual) > 10
    assert np.array_equal(found.a.pair[mutual], found.a.best[mutual])


def test_a_dictionary_is_its_own_counterpart(analysis: Analysis) -> None:
    found = counterparts(analysis, analysis)

    alive = np.flatnonzero(analysis.columns.firings > 0)
    assert np.array_equal(found.a.pair[alive], alive)
    assert np.allclose(found.a.pair_cosine[alive], 1)


@pytest.mark.parametrize(
    "sae", [{"arch": "signed_topk"}, {"arch": "plain", "settings": {"activation": "signed_topk"}}]
)
def test_a_signed_dictionary_is_compared_by_lines(analysis: Analysis, sae: dict[str, Any]) -> None:
    assert analysis.directions is not None
    opposite = replace(analysis, directions=-analysis.directions)
    signed = with_info(opposite, sae={**analysis.info["sae"], **sae})

    assert np.nanmin(counterparts(analysis, signed).a.pair_cosine) > 0.999
    assert np.nanmax(counterparts(analysis, opposite).a.pair_cosine) < 0.999


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"site": "elsewhere"}, SettingsError, "different sites, 'site' and 'elsewhere'"),
        ({"host": {"name": "another"}}, SettingsError, "different hosts"),
        ({"kind": "image"}, SettingsError, "different kinds"),
        ({"parts": [{}, {}]}, SettingsError, "several dictionaries"),
        ({"directions": None}, FormatError, "second analysis was written without"),
        ({"directions": "narrow"}, SettingsError, "12 and 5 wide"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    analysis: Analysis, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "directions" in change:
        assert analysis.directions is not None
        narrow = None if change["directions"] is None else analysis.directions[:, :5]
        other = replace(analysis, directions=narrow)
    else:
        other = with_info(analysis, **change)

    with pytest.raises(error, match=message):
        counterparts(analysis, other)
