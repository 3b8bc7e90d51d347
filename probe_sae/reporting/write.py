"""Write a report: pages, data files and `report.json`, in one pass over the analysis.

Costs about a sixth of a millisecond and 0.6 kB a feature, plus plotly.js (4.8 MB). The folder:

    index.html map.html       the pages; map.html alone may compile code, for plotly's WebGL
    assets/                   style, icon, `js/`, plotly.min.js (loaded only where a plot opens)
    report.json               the numbers of the dictionary as a whole, for other programs
    data/manifest.js          the same without training, and how the data are laid out
    data/index.js labels.js   every feature: what the list, the search and the map need
    data/spark.js             every feature: its small histogram
    data/f/00000.js …         128 features each: all that their pages show
    data/corpus/000.js …      the contexts shown, each once (or data/pictures/ and img/)
    data/together.js          who fires with whom inside modules; which modules go together
    data/vocab.js             what the tokens shown stand for
    data/explore/             sampled inputs with all that fires on them (000.js …), their list.js,
                              maps.js of their rows
    data/pixels.js            images, reconstructions, features as images: where rows are pixels
    data/train.js figures.js  training log; plotly figures
    data/notes.js             labels baked in
    data/compare.js           another dictionary's features and this one's, matched (if asked for)

Or all of it in one HTML file: see `single`.

`encoding` has the form of a data file; what a column holds and how precisely stands where it is
packed, in `features`, `inputs` and `explorer`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe_sae.analysis.arrays import RANDOM, TOP
from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.saved import load_analysis
from probe_sae.outputs import whole_folder
from probe_sae.progress import progress
from probe_sae.reporting import features, inputs
from probe_sae.reporting.comparison import compared
from probe_sae.reporting.encoding import script, to_json
from probe_sae.reporting.explorer import explorer_files
from probe_sae.reporting.figures import figure_json, figures, plotly_script
from probe_sae.reporting.notes import load_labels
from probe_sae.reporting.pages import write_pages
from probe_sae.reporting.single import check_single, fold, whole_file
from probe_sae.reporting.summary import summarise
from probe_sae.reporting.together import together
from probe_sae.shown import Fact, Shown, main_metrics, table_html

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """A report on disk."""

    folder: Path
    """Where it lies."""
    summary: Mapping[str, Any]
    """What `report.json` holds."""
    page: str = "index.html"
    """Name of the page to open: of the report's only file, where it is one."""

    @property
    def index(self) -> Path:
        """The page to open."""
        return self.folder / self.page

    @property
    def figures(self) -> dict[str, "Figure"]:
        """Plotly figures by name: `density`, and `training` where it was logged."""
        return figures(self.summary)

    def show(self, height: int = 800) -> "Frame":
        """Return the report as a frame that a notebook shows: the last value of a cell.

        Its address is relative to the working folder, as a notebook's server sees it. Outside
        notebooks, `probe-sae show` opens a report.

        Args:
            height: of the frame, in pixels.
        """
        return Frame(os.path.relpath(self.index).replace(os.sep, "/"), height)

    def _repr_html_(self) -> str:
        """Return a small card for notebooks: no script, no text of a corpus."""
        from html import escape

        link = escape(str(self.index))
        return f"<a href='{link}'>{link}</a>{table_html(self._facts()[1:])}"

    def _facts(self) -> list[Fact]:
        named = [Fact(name, self.summary[name]) for name in ("site", "rows", "features", "dead")]
        return [Fact("index", self.index), *named, *main_metrics(self.summary)]


@dataclass(frozen=True)
class Frame:
    """A page in a notebook; it shows itself."""

    address: str
    height: int
    """Pixels."""

    def _repr_html_(self) -> str:
        from html import escape
        from urllib.parse import quote

        source = escape(quote(self.address), quote=True)
        return (
            f'<iframe src="{source}" width="100%" height="{int(self.height)}" '
            'style="border:0" title="Report"></iframe>'
        )


def write_report(
    analysis: Analysis | str | Path,
    out: str | Path,
    *,
    labels: Path | None = None,
    compare: Analysis | str | Path | None = None,
    single_file: bool = False,
    force: bool = False,
) -> Report:
    """Write a report that opens from disk, with the network off, in any current browser.

    Args:
        analysis: an analysis, or the folder of one.
        out: the folder to make; with `single_file`, the file, whose name ends in `.html`.
        labels: a file of labels and notes exported from a report, to show in this one.
        compare: another analysis of the same site, whose features are matched with this one's.
        single_file: write one HTML file that holds everything, for up to 2,048 features.
        force: replace an older report at `out`.

    Raises:
        OutputExists: `out` is there already.
        FormatError: an analysis or the labels cannot be read.
        SettingsError: the two analyses cannot be compared, or there are too many features for
            a single file.
    """
    found = analysis if isinstance(analysis, Analysis) else load_analysis(analysis)
    if single_file:
        check_single(Path(out), found.count)
    found = replace(found, examples=found.examples.of_kinds((TOP, RANDOM)))
    named = load_labels(Path(labels), found.count) if labels is not None else {}
    summary, more = summarise(found), {"notes": named}
    if compare is not None:
        other = compare if isinstance(compare, Analysis) else load_analysis(compare)
        summary["compare"], more["compare"] = compared(found, other)
    if single_file:
        with whole_file(Path(out), force=force) as folder:
            _write_report(found, summary, more, folder, plotly=False)
            fold(folder)
        return Report(Path(out).parent, summary, Path(out).name)
    with whole_folder(out, force=force, marks=("report.json",)) as folder:
        _write_report(found, summary, more, folder, plotly=True)
    return Report(Path(out), summary)


def _write_report(
    analysis: Analysis,
    summary: Mapping[str, Any],
    more: Mapping[str, Any],
    folder: Path,
    *,
    plotly: bool,
) -> None:
    write_pages(summary, folder)
    _write_data(analysis, summary, more, folder)
    text = to_json(summary) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8", newline="\n")
    if plotly:
        place = folder / "assets" / "plotly.min.js"
        place.write_text(plotly_script(), encoding="utf-8", newline="\n")


def _write_data(
    analysis: Analysis, summary: Mapping[str, Any], more: Mapping[str, Any], folder: Path
) -> None:
    shown = inputs.find_shown(analysis)
    layout = _write_inputs(analysis, shown, folder)
    for name, value in explorer_files(analysis, shown):
        _write_script(folder, name, value)
    if analysis.pixels is not None:
        _write_script(folder, "pixels", inputs.drawn_pixels(analysis.pixels))
    layout["pixels"] = analysis.pixels is not None
    layout |= {"chunk": features.CHUNK, "bins": analysis.columns.histogram.shape[1]}
    head = {name: value for name, value in summary.items() if name != "training"}
    head["modules"] = [
        {name: value for name, value in module.items() if name != "features"}
        for module in summary["modules"]
    ]
    drawn = {name: figure_json(figure) for name, figure in figures(summary).items()}
    parts: dict[str, Any] = {
        "manifest": {**head, "layout": layout},
        "index": features.index(analysis),
        "labels": features.labels(analysis),
        "spark": features.sparks(analysis),
        "vocab": inputs.vocabulary(analysis, shown),
        "together": together(analysis),
        "train": summary["training"],
        "figures": drawn,
        **more,
    }
    if not isinstance(analysis.inputs, TextInputs):
        parts["strongest"] = features.strongest(analysis, shown)
    for name, value in parts.items():
        _write_script(folder, name, value)
    with progress("report", analysis.count, "features") as advance:
        for first in range(0, analysis.count, features.CHUNK):
            name = f"f/{first // features.CHUNK:05d}"
            _write_script(folder, name, features.chunk(analysis, shown, first))
            advance(features.CHUNK)


def _write_inputs(analysis: Analysis, shown: inputs.Shown, folder: Path) -> dict[str, Any]:
    """Write the inputs shown; return what the pages must know to find them."""
    source: TextInputs | ImageInputs = analysis.inputs
    starts: list[int] = []
    if isinstance(source, TextInputs):
        for rank, (first, shard) in enumerate(inputs.context_shards(source, shown)):
            _write_script(folder, f"corpus/{rank:03d}", shard)
            starts.append(first)
        return {"shards": starts}
    for rank, (first, shard) in enumerate(inputs.picture_shards(source, shown)):
        _write_script(folder, f"pictures/{rank:03d}", shard)
        starts.append(first)
    are_files = inputs.write_pictures(source, shown, folder)
    return {
        "shards": starts,
        "grid": list(source.grid),
        "picture": list(source.thumbnails.shape[1:]),
        "are_files": are_files,
    }


def _write_script(folder: Path, name: str, value: Any) -> None:
    place = folder / "data" / f"{name}.js"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(script(name, value), encoding="utf-8", newline="\n")
