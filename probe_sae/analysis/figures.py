"""Figures of an analysis, as plotly figures to show, change or save.

`figure.show()` opens one, `figure.write_html(PATH)` keeps it, `write_figure` draws it into a file.
Importing plotly costs a third of a second, so it happens where a figure is made.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.result import Analysis
from probe_sae.errors import EnvironmentProblem, SettingsError, near

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("module", "cluster", "group", "part", "density", "max", "balanced_accuracy")
"""What a map may be coloured by."""
DRAWN = (".png", ".svg", ".pdf", ".jpg", ".webp")
"""Endings of the files that a figure may be drawn into."""


def map_figure(analysis: Analysis, colour: str = "module") -> "Figure":
    """Return the map of features: a dot each, near each other where directions are alike.

    Args:
        analysis: what to show.
        colour: one of `COLOURS`; density is on a log scale.

    Raises:
        SettingsError: there is no such colour.
    """
    from plotly.graph_objects import Figure, Scattergl

    if colour not in COLOURS:
        known = ", ".join(COLOURS)
        raise SettingsError(f"no colour {colour!r}; there are {known}.{near(colour, COLOURS)}")
    columns = analysis.columns
    there = np.flatnonzero(np.isfinite(columns.x))
    values = _values(analysis, colour)[there]
    names = [f"#{i} {_safe(analysis.label(i))}" for i in there.tolist()]
    marker: dict[str, Any] = {
        "size": 5,
        "color": values,
        "colorscale": "Viridis",
        "showscale": True,
    }
    marker["colorbar"] = {"title": {"text": f"log10 {colour}" if colour == "density" else colour}}
    dots = Scattergl(
        x=columns.x[there], y=columns.y[there], mode="markers", marker=marker, text=names,
        hoverinfo="text",
    )  # fmt: skip
    figure = Figure(dots)
    hidden = {"visible": False}
    figure.update_layout(xaxis=hidden, yaxis={**hidden, "scaleanchor": "x"}, title="Features")
    return figure


def histogram_figure(analysis: Analysis, feature: int) -> "Figure":
    """Return the histogram of a feature's firings by activation, counts on a log scale.

    Raises:
        SettingsError: there is no such feature.
    """
    from plotly.graph_objects import Bar, Figure

    _check_feature(analysis, feature)
    counts, top = analysis.columns.histogram[feature], analysis.columns.histogram_top[feature]
    edges = np.linspace(0, float(top), len(counts) + 1)
    bars = Bar(x=(edges[:-1] + edges[1:]) / 2, y=counts, width=np.diff(edges))
    figure = Figure(bars)
    figure.update_layout(
        title=f"Feature {feature}: {_safe(analysis.label(feature))}",
        xaxis_title="activation", yaxis_title="firings", yaxis_type="log",
    )  # fmt: skip
    return figure


def density_figure(analysis: Analysis) -> "Figure":
    """Return how many features fire how often: log10 of the share of rows, dead ones left out."""
    from plotly.graph_objects import Figure, Histogram

    density = analysis.columns.density
    figure = Figure(Histogram(x=np.log10(density[density > 0]), nbinsx=40))
    figure.update_layout(
        title="Density of the features", xaxis_title="log10 of the share of rows",
        yaxis_title="features",
    )  # fmt: skip
    return figure


def module_figure(analysis: Analysis, module: int) -> "Figure":
    """Return who fires with whom in a module: the phi coefficient of its members, densest first.

    Up to 200 members; pairs that never fired together have no value.

    Raises:
        SettingsError: there is no such module.
    """
    from plotly.graph_objects import Figure, Heatmap

    members = np.flatnonzero(analysis.columns.module == module)
    if not len(members):
        last = int(analysis.columns.module.max(initial=-1))
        raise SettingsError(f"no module {module}; there are 0 to {last}.")
    members = members[np.argsort(-analysis.columns.density[members], kind="stable")][:200]
    place = np.full(analysis.count, -1)
    place[members] = np.arange(len(members))
    pairs = analysis.pairs
    one, two = place[pairs.first], place[pairs.second]
    inside = (one >= 0) & (two >= 0)
    table = np.full((len(members), len(members)), np.nan)
    table[one[inside], two[inside]] = pairs.phi[inside]
    names = [f"#{i} {_safe(analysis.label(i))}"[:40] for i in members.tolist()]
    figure = Figure(Heatmap(z=table, x=names, y=names, colorscale="Oranges", zmin=0))
    figure.update_layout(title=f"Module {module}", yaxis={"autorange": "reversed"})
    return figure


def codes_figure(analysis: Analysis, rows: int = 100, features: int = 100) -> "Figure":
    """Return codes as a heat map: the first sampled rows by the features that fire on them most.

    Args:
        analysis: what to show.
        rows: how many of the sampled rows.
        features: how many features, those with the largest sums on these rows.
    """
    from plotly.graph_objects import Figure, Heatmap

    sampled = analysis.rows
    count = min(rows, len(sampled.context))
    end = int(sampled.offsets[count]) if count else 0
    row = np.repeat(np.arange(count), np.diff(sampled.offsets[: count + 1]))
    feature, value = sampled.feature[:end], sampled.value[:end]
    sums: NDArray[Any] = np.bincount(feature, np.abs(value), analysis.count)
    shown = np.sort(np.argsort(-sums, kind="stable")[:features])
    table = np.zeros((count, len(shown)))
    place = np.full(analysis.count, -1)
    place[shown] = np.arange(len(shown))
    kept = place[feature] >= 0
    table[row[kept], place[feature[kept]]] = value[kept]
    figure = Figure(Heatmap(z=table, x=[f"#{i}" for i in shown.tolist()], colorscale="Oranges"))
    figure.update_layout(title="Codes", xaxis_title="feature", yaxis_title="row")
    return figure


def rows_figure(analysis: Analysis, by: str = "umap") -> "Figure":
    """Return sampled rows on a plane, by their codes: `umap` or `pca`; coloured by context.

    Raises:
        SettingsError: `by` is something else.
    """
    from plotly.graph_objects import Figure, Scattergl

    if by not in ("umap", "pca"):
        raise SettingsError(f"by is {by!r}; expected umap or pca.")
    places = analysis.rows.umap if by == "umap" else analysis.rows.pca
    context = analysis.rows.context[analysis.rows.mapped]
    marker = {"size": 4, "color": context, "colorscale": "Turbo"}
    figure = Figure(Scattergl(x=places[:, 0], y=places[:, 1], mode="markers", marker=marker))
    figure.update_layout(title=f"Rows by their codes ({by.upper()})")
    return figure


def write_figure(
    figure: "Figure", path: str | Path, *, width: int = 900, height: int = 600, scale: float = 2
) -> Path:
    """Draw a figure into a file, PNG, SVG, PDF, JPEG or WebP by its ending; return the file.

    Takes some seconds: kaleido (`pip install "probe_sae[figures]"`) starts a Chrome or Chromium
    that is on the machine. A file that is there already is replaced.

    Args:
        figure: what `Analysis.figure` returned, or any of plotly's.
        path: where to.
        width: in points.
        height: in points.
        scale: pixels a point, where the file holds pixels.

    Raises:
        SettingsError: the file's ending names no such format, or its folder is not there.
        EnvironmentProblem: kaleido, or a browser for it, is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in DRAWN:
        raise SettingsError(
            f"{path.name} has the ending {path.suffix!r}; expected {', '.join(DRAWN)}, or keep a "
            f"page with figure.write_html.{near(path.suffix, DRAWN)}"
        )
    if not path.parent.is_dir():
        raise SettingsError(f"the folder {path.parent} is not there; make it first.")
    try:
        import_module("kaleido")
    except ImportError as problem:
        raise EnvironmentProblem(
            "drawing a figure into a file needs kaleido: pip install 'probe_sae[figures]'. "
            "figure.write_html works without."
        ) from problem
    try:
        figure.write_image(path, width=width, height=height, scale=scale)
    except RuntimeError as problem:
        raise EnvironmentProblem(
            f"kaleido could not draw {path.name}: {str(problem).strip()} It needs Chrome or "
            "Chromium: install one, or run plotly_get_chrome."
        ) from problem
    return path


def _values(analysis: Analysis, colour: str) -> NDArray[Any]:
    if colour == "balanced_accuracy":
        return analysis.labels.balanced_accuracy
    values = getattr(analysis.columns, colour).astype(np.float64)
    return np.log10(np.maximum(values, 1e-12)) if colour == "density" else values


def _check_feature(analysis: Analysis, feature: int) -> None:
    if not 0 <= feature < analysis.count:
        raise SettingsError(f"no feature {feature}; there are 0 to {analysis.count - 1}.")


def _safe(text: str) -> str:
    """Return text that plotly takes for text: it reads `<` and `&` as the start of markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
