"""Figures show the analysis's numbers."""

from pathlib import Path

import numpy as np
import pytest

from probe_sae.analysis import Analysis, analyse
from probe_sae.errors import SettingsError

from .small import FEATURES, dictionary, make_store


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("figures")
    return analyse(dictionary(), make_store(folder / "store"), folder / "analysis")


def test_a_histogram_has_a_bar_for_every_bin(analysis: Analysis) -> None:
    (bars,) = analysis.figure("histogram", 8).data

    assert list(bars.y) == analysis.columns.histogram[8].tolist()
    assert sum(bars.width) == pytest.approx(analysis.columns.histogram_top[8])


def test_the_map_has_a_dot_for_every_living_feature(analysis: Analysis) -> None:
    (dots,) = analysis.figure("map", colour="density").data

    alive = np.flatnonzero(analysis.columns.firings > 0)
    assert np.array_equal(dots.x, analysis.columns.x[alive])
    assert np.allclose(dots.marker.color, np.log10(analysis.columns.density[alive]))
    assert dots.text[0].startswith(f"#{alive[0]} ")


def test_the_heat_map_of_codes_holds_the_strongest_features(analysis: Analysis) -> None:
    (heat,) = analysis.figure("codes", rows=50, features=10).data
    rows = analysis.rows
    dense = np.zeros((50, FEATURES))
    for i in range(50):
        part = slice(*rows.offsets[i : i + 2])
        dense[i, rows.feature[part]] = rows.value[part]
    strongest = np.sort(np.argsort(-dense.sum(0), kind="stable")[:10])

    assert list(heat.x) == [f"#{i}" for i in strongest]
    assert np.allclose(heat.z, dense[:, strongest])


def test_rows_lie_where_the_analysis_has_them(analysis: Analysis) -> None:
    (dots,) = analysis.figure("rows", "pca").data

    assert np.array_equal(np.stack([dots.x, dots.y], 1), analysis.rows.pca)


def test_markup_in_a_label_is_text(analysis: Analysis) -> None:
    analysis.labels.label[8] = "<a href='x'>&"
    (dots,) = analysis.figure("map").data

    assert any("&lt;a href='x'>&amp;" in text for text in dots.text)
    assert not any("<a" in text for text in dots.text)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("maps", (), "no figure 'maps'.*map"),
        ("histogram", (FEATURES,), f"no feature {FEATURES}"),
        ("module", (999,), "no module 999"),
        ("map", ("colours",), "no colour"),
        ("rows", ("tsne",), "expected umap or pca"),
    ],
)
def test_what_is_not_there_is_told(
    analysis: Analysis, name: str, given: tuple[object, ...], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        analysis.figure(name, *given)


def test_a_module_shows_the_phi_of_its_members(analysis: Analysis, tmp_path: Path) -> None:
    analysis.columns.module[:5] = 0
    analysis.columns.module[5:] = -1
    (heat,) = analysis.figure("module", 0).data
    members = [int(name.split()[0][1:]) for name in heat.y]
    known = {
        (int(a), int(b)): phi
        for a, b, phi in zip(
            analysis.pairs.first, analysis.pairs.second, analysis.pairs.phi, strict=True
        )
    }

    for i, a in enumerate(members):
        for j, b in enumerate(members):
            assert heat.z[i][j] == known.get((a, b)) or np.isnan(heat.z[i][j])
    analysis.figure("module", 0).write_html(tmp_path / "module.html")
    assert (tmp_path / "module.html").stat().st_size > 1000
