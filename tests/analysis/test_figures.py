"""Figures show the analysis's numbers."""

import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from probe_sae.analysis import Analysis, analyse, write_figure
from probe_sae.errors import EnvironmentProblem, SettingsError

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


def test_a_figure_is_drawn_into_a_file(analysis: Analysis, tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="kaleido (extra [figures]) draws figures into files")
    from PIL import Image

    drawn = write_figure(analysis.figure("histogram", 8), tmp_path / "8.png", width=300, height=200)
    pixels = np.asarray(Image.open(io.BytesIO(drawn.read_bytes())).convert("RGB")).astype(int)
    written = write_figure(analysis.figure("histogram", 8), tmp_path / "8.svg").read_text()

    blue = (pixels[..., 2] > 200) & (pixels[..., 0] < 150)
    assert pixels.shape == (400, 600, 3)
    assert blue.mean() > 0.005
    assert written.count('class="point"') == len(analysis.columns.histogram[8])


def test_a_figure_says_what_it_lacks(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = analysis.figure("density")
    with pytest.raises(SettingsError, match=r"ending '.pngg'.*Near it: .png"):
        write_figure(figure, tmp_path / "a.pngg")
    with pytest.raises(SettingsError, match="nowhere is not there"):
        write_figure(figure, tmp_path / "nowhere" / "a.png")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'probe_sae\[figures\]'"):
        write_figure(figure, tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "kaleido", ModuleType("kaleido"))

    def no_browser(*given: object, **options: object) -> None:
        raise RuntimeError("Chrome was not found.")

    monkeypatch.setattr(type(figure), "write_image", no_browser)
    with pytest.raises(EnvironmentProblem, match=r"a\.png: Chrome was not.*plotly_get_chrome"):
        write_figure(figure, tmp_path / "a.png")

    assert not list(tmp_path.iterdir())
