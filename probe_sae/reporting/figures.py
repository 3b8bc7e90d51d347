"""Plotly figures of a whole dictionary, for notebooks and for the pages (as JSON).

Importing plotly costs about a third of a second, so it happens where a figure is made.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CURVES = [
    ("fraction_unexplained", "fraction unexplained"),
    ("loss", "loss"),
    ("l0", "features firing on a row"),
    ("dead_fraction", "share of dead features"),
    ("lr", "learning rate"),
]


def figures(summary: Mapping[str, Any]) -> dict[str, "Figure"]:
    """Return a report's figures by name: `density`, and `training` if it was logged."""
    found = {"density": _density(summary)}
    if any(line.get("step") is not None for line in summary["training"]):
        found["training"] = _training(summary["training"])
    return found


def figure_json(figure: "Figure") -> dict[str, Any]:
    """Return a figure as plain JSON values, plotly's template left out: the page brings its own."""
    found = json.loads(str(figure.to_json()))
    found["layout"].pop("template", None)
    return found


def plotly_script() -> str:
    """Return plotly.js, as plotly for Python carries it (about 4.8 MB)."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _density(summary: Mapping[str, Any]) -> "Figure":
    from plotly.graph_objects import Bar, Figure

    edges, counts = (summary["density_histogram"][key] for key in ("edges", "counts"))
    pairs = list(pairwise(edges))
    ranges = [f"{10**low:.2g} to {10**high:.2g}" for low, high in pairs]
    bars = Bar(
        x=[(low + high) / 2 for low, high in pairs],
        y=counts,
        width=[(high - low) * 0.92 for low, high in pairs],
        customdata=ranges,
        hovertemplate="%{y} features fire on a share of %{customdata} of the rows<extra></extra>",
    )
    figure = Figure(bars)
    figure.update_layout(
        xaxis_title="density: log10 of the share of rows", yaxis_title="features", bargap=0
    )
    return figure


def _training(lines: list[Mapping[str, Any]]) -> "Figure":
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    present = [pair for pair in _CURVES if any(line.get(pair[0]) is not None for line in lines)]
    titles = [title for _, title in present]
    figure = make_subplots(rows=len(present), cols=1, shared_xaxes=True, subplot_titles=titles)
    for row, (name, title) in enumerate(present, start=1):
        curve = Scatter(
            x=[line.get("step") for line in lines],
            y=[line.get(name) for line in lines],
            mode="lines",
            name=title,
        )
        figure.add_trace(curve, row=row, col=1)
    figure.update_xaxes(title_text="step", row=len(present), col=1)
    figure.update_layout(showlegend=False, height=180 * max(len(present), 1) + 80)
    return figure
