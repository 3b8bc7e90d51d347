"""A report's files hold the analysis, and nothing that could run or call out."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from probe_sae.analysis import save_analysis
from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.result import Analysis
from probe_sae.errors import FormatError, OutputExists
from probe_sae.reporting import Report, write_report
from probe_sae.reporting.encoding import unpack
from probe_sae.reporting.features import chunk
from probe_sae.reporting.inputs import find_shown
from probe_sae.shipped import shipped


def read(report: Report, name: str) -> Any:
    text = (report.folder / "data" / f"{name}.js").read_text(encoding="utf-8")
    assert text.startswith(f'probe.take("{name}",')
    return json.loads(text.removeprefix(f'probe.take("{name}",').removesuffix(");\n"))


def columns(report: Report, name: str) -> dict[str, Any]:
    return unpack(read(report, name))


def bytes_of(folder: Path, *, plotly: bool = False) -> int:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if plotly or "plotly" not in path.name)


def test_the_index_holds_every_feature(text: Analysis, text_report: Report) -> None:
    index = columns(text_report, "index")

    features = text.columns
    assert np.array_equal(index["firings"], features.firings)
    assert np.allclose(index["max"], features.max, rtol=2**-16, atol=0)
    assert np.array_equal(index["module"].astype(int) - 1, features.module)
    assert np.array_equal(index["cluster"].astype(int) - 1, features.cluster)
    assert np.array_equal(index["x"] == 65535, np.isnan(features.x))
    known = ~np.isnan(features.x)
    low, high = np.nanmin(features.x), np.nanmax(features.x)
    back = low + index["x"][known] / 65534 * (high - low)
    assert np.abs(back - features.x[known]).max() <= (high - low) / 65534


def test_chunks_hold_every_feature_within_the_stated_precision(
    text: Analysis, text_report: Report
) -> None:
    features = text.columns
    for first in range(0, text.count, 128):
        part = slice(first, first + 128)

        made = columns(text_report, f"f/{first // 128:05d}")

        for name in ("mean", "std", "skew", "kurtosis", "max", "histogram", "decoder_norm"):
            assert np.array_equal(made[name], getattr(features, name)[part], equal_nan=True), name
        quantiles = features.quantiles[part]
        assert np.allclose(made["quantiles"], quantiles, rtol=2**-12, equal_nan=True)
        assert np.allclose(made["token_shares"] / 65535, features.token_shares[part], atol=2**-17)
        assert np.allclose(made["token_lifts"], features.token_lifts[part], rtol=2**-12)
        assert np.array_equal(made["nearest_ids"].astype(int) - 1, features.nearest_ids[part])
        assert np.array_equal(made["cofiring_ids"].astype(int) - 1, features.cofiring_ids[part])
        assert np.allclose(
            2.0 ** (made["logit_bars"] / 6), 1 + features.logit_histogram[part], rtol=0.06
        )
        assert np.allclose(made["logit_range"], features.logit_range[part], rtol=2**-9)
        assert np.allclose(made["logit_skew"], features.logit_skew[part], rtol=2**-9)
        cosines = made["nearest_cosines"] / 32767
        assert np.allclose(cosines, features.nearest_cosines[part], atol=2**-15)


def values_of(made: dict[str, Any]) -> list[float]:
    """Return examples' values as a page computes them."""
    found: list[float] = []
    feature = np.repeat(np.arange(len(made["max"])), made["example_counts"])
    group, halvings = (-1, -1), 0
    for one, kind, step in zip(feature, made["example_kind"], made["example_steps"], strict=True):
        halvings = int(step) + (halvings if (one, kind) == group else 0)
        group = one, kind
        top = made["max"][one] if made["max"][one] > 0 else 1
        found.append(top * 2 ** (-halvings / 1024))
    return found


def test_chunks_hold_every_example(text: Analysis, text_report: Report) -> None:
    examples, shown = text.examples, find_shown(text)
    for first in range(0, text.count, 128):
        last = min(first + 128, text.count)
        low, high = np.searchsorted(examples.feature, [first, last])
        entries = slice(int(examples.offsets[low]), int(examples.offsets[high]))

        made = columns(text_report, f"f/{first // 128:05d}")

        counts = np.bincount(examples.feature[low:high] - first, minlength=last - first)
        assert np.array_equal(made["example_counts"], counts)
        contexts = shown.contexts[made["example_context"]]
        assert np.array_equal(contexts, examples.context[low:high])
        assert np.array_equal(made["example_position"], examples.position[low:high])
        assert np.allclose(values_of(made), examples.value[low:high], rtol=2**-11)
        assert np.allclose(
            made["example_loss"], examples.loss[low:high], rtol=2**-8, equal_nan=True
        )
        runs = np.split(made["fired_step"].astype(int), np.cumsum(made["fired_counts"])[:-1])
        firsts = examples.position[low:high]
        places = np.concatenate(
            [
                marked - run[0] + np.cumsum([0, *run[1:]])
                for marked, run in zip(firsts, runs, strict=True)
            ]
        )
        assert np.array_equal(places, examples.fired_position[entries])
        tops = np.repeat(text.columns.max[examples.feature[low:high]], made["fired_counts"])
        levels = made["fired_level"] / 255
        marked = np.repeat(examples.position[low:high], made["fired_counts"])
        far = np.abs(examples.fired_position[entries] - marked) > 16
        own = examples.fired_position[entries] == marked
        assert (levels[own] == 0).all()
        assert own.sum() == high - low
        error = np.abs(levels - examples.fired_value[entries] / tops)
        assert error[~far & ~own].max() <= 1 / 170 + 1e-6
        assert error[far].max() <= 1 / 30 + 1e-6


def test_values_that_do_not_descend_are_kept_too(text: Analysis) -> None:
    examples, tops = text.examples, text.columns.max.copy()
    odd = np.where(np.arange(len(examples.value)) % 3 == 0, 2 * examples.value, examples.value)
    low = int(np.searchsorted(examples.feature, 128))
    tops[3] = 0
    columns = replace(text.columns, max=tops)
    other = replace(text, examples=replace(examples, value=odd), columns=columns)

    made = unpack(chunk(other, find_shown(other), 0))

    assert np.allclose(values_of(made), odd[:low], rtol=2**-11)


def test_the_corpus_holds_every_context_shown(text: Analysis, text_report: Report) -> None:
    assert isinstance(text.inputs, TextInputs)
    shown, inputs = find_shown(text), text.inputs

    corpus, vocabulary = read(text_report, "corpus/000"), columns(text_report, "vocab")

    shard = unpack(corpus)
    offsets = np.concatenate([[0], np.cumsum(shard["lengths"].astype(int))])
    ids = vocabulary["ids"].astype(int)
    for rank, context in enumerate(shown.contexts.tolist()):
        tokens = ids[shard["tokens"][offsets[rank] : offsets[rank + 1]].astype(int) - 1]
        assert np.array_equal(
            tokens, inputs.tokens[inputs.offsets[context] : inputs.offsets[context + 1]]
        )
        assert shard["start"][rank] == inputs.start[context]
    ends = np.cumsum(vocabulary["lengths"].astype(int))
    pieces = vocabulary["bytes"].tobytes()
    for token, end, length in zip(ids.tolist(), ends, vocabulary["lengths"], strict=True):
        assert pieces[end - length : end] == inputs.pieces[token]


def test_small_pictures_travel_in_data_files_and_large_ones_as_webp(
    images: Analysis, image_report: Report, photo_report: Report
) -> None:
    shard = columns(image_report, "pictures/000")

    shown = find_shown(images)
    assert np.array_equal(shard["pixels"], images.inputs.thumbnails[shown.contexts])  # type: ignore[union-attr]
    assert not (image_report.folder / "img").exists()
    assert (photo_report.folder / "img/000/000000.webp").read_bytes()[8:12] == b"WEBP"


def test_report_json_is_what_the_analysis_says(text: Analysis, text_report: Report) -> None:
    found = json.loads((text_report.folder / "report.json").read_text())

    density = text.columns.density
    assert found["features"] == text.count
    assert found["dead"] == int((density == 0).sum())
    assert found["metrics"]["fraction_unexplained"] == text.info["metrics"]["fraction_unexplained"]
    assert sum(found["density_histogram"]["counts"]) == found["alive"] == int((density > 0).sum())
    module = found["modules"][0]
    assert sorted(module["features"]) == np.flatnonzero(text.columns.module == 0).tolist()
    assert found["training"] == text.info["training"]
    assert found == text_report.summary


@pytest.mark.parametrize(
    ("before", "shown"), [("", "mine"), ("torchvision:net@", "torchvision:net@mine")]
)
def test_a_host_in_a_folder_is_named_without_where_it_lies(
    text: Analysis, tmp_path: Path, before: str, shown: str
) -> None:
    folder = tmp_path / "models" / "mine"
    host = {"name": f"{before}{folder}", "dtype": "float32"}
    analysis = replace(text, info={**text.info, "host": host})

    report = write_report(analysis, tmp_path / "report")

    assert json.loads((report.folder / "report.json").read_text())["host"]["name"] == shown
    written = [file for file in report.folder.rglob("*") if file.is_file()]
    assert not any(str(folder).encode() in file.read_bytes() for file in written)


def test_checks_warn_beyond_their_thresholds(text_report: Report) -> None:
    holds = {check["metric"]: check["holds"] for check in text_report.summary["checks"]}

    assert holds == {
        "dead_fraction": True,
        "dense_fraction": False,
        "fraction_unexplained": True,
        "loss_recovered": True,
    }


def test_an_analysis_without_metrics_counts_dead_features_itself(
    fake: ModuleType, text: Analysis, tmp_path: Path
) -> None:
    report = write_report(fake.without_metrics(text), tmp_path / "report")

    checks = {check["metric"]: check for check in report.summary["checks"]}
    assert checks["loss_recovered"]["holds"] is None
    assert checks["dead_fraction"]["value"] == pytest.approx((text.columns.firings == 0).mean())
    assert list(report.figures) == ["density"]


def test_pages_allow_only_files_of_the_report(text_report: Report) -> None:
    policies = {
        page: re.findall(
            r'http-equiv="Content-Security-Policy" content="([^"]+)"',
            (text_report.folder / page).read_text(),
        )
        for page in ("index.html", "map.html")
    }

    strict = (
        "default-src 'none'; script-src 'self' file:; style-src 'self' 'unsafe-inline' file:; "
        "img-src 'self' data: blob: file:; base-uri 'none'; form-action 'none'"
    )
    assert policies["index.html"] == [strict]
    assert policies["map.html"] == [strict.replace("file:; style", "file: 'unsafe-eval'; style")]


@pytest.mark.parametrize("page", ["index.html", "map.html"])
def test_pages_hold_no_inline_script_and_link_only_to_files_there_are(
    page: str, text_report: Report
) -> None:
    html = (text_report.folder / page).read_text()

    assert not re.search(r"<script(?![^>]*\ssrc=)", html)
    assert not re.search(r"\son\w+=", html.split("<noscript>")[0])
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert links
    for link in links:
        assert link.startswith("#") or (text_report.folder / link).is_file(), link


def test_every_script_is_used_by_a_page(text_report: Report) -> None:
    sources = {path.name: path.read_text() for path in shipped("reports/js").iterdir()}
    used: set[str] = set()
    for page in ("shared", "index", "map"):
        script = (text_report.folder / "assets" / f"{page}.js").read_text()
        parts = dict(re.findall(r"^// (\w+\.js)\n(.*?)\n(?=// \w+\.js\n|\Z)", script, re.M | re.S))
        for name, text in parts.items():
            assert "".join(text.split()) == "".join(
                "".join(line.split())
                for line in sources[name].splitlines()
                if not line.strip().startswith("//")
            )
        assert not used & set(parts)
        used |= set(parts)

    assert used == set(sources)


def test_scripts_never_parse_text_as_markup(text_report: Report) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|DOMParser|srcdoc"
    for page in ("shared", "index", "map"):
        script = (text_report.folder / "assets" / f"{page}.js").read_text()
        assert not re.search(forbidden, script), page


def test_nothing_but_namespaces_names_another_host(text_report: Report) -> None:
    for path in text_report.folder.rglob("*"):
        if path.suffix in {".js", ".html", ".css", ".svg"} and "plotly" not in path.name:
            rest = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|[\"'(]//\w", rest), path.name


@pytest.mark.parametrize("fixture", ["text_report", "image_report", "photo_report"])
def test_hostile_text_stands_raw_in_no_file(
    fixture: str, fake: ModuleType, request: pytest.FixtureRequest
) -> None:
    report: Report = request.getfixturevalue(fixture)
    raw = [text for text in fake.HOSTILE if "<" in text or "\u2028" in text]
    for path in report.folder.rglob("*"):
        if path.suffix in {".js", ".html", ".json"} and "plotly" not in path.name:
            text = path.read_text(encoding="utf-8")
            assert not any(hostile in text for hostile in raw), path.name
            assert "\x00" not in text
            assert "<script>" not in text or path.parent.name == "js"


def test_writing_twice_gives_the_same_bytes(
    text: Analysis, text_report: Report, tmp_path: Path
) -> None:
    again = write_report(text, tmp_path / "again")

    def digests(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    assert digests(again.folder) == digests(text_report.folder)


def test_the_shell_is_small(text_report: Report) -> None:
    shell = bytes_of(text_report.folder / "assets") + (
        (text_report.folder / "index.html").stat().st_size
    )

    assert shell <= 240_000


def test_a_feature_costs_about_a_kilobyte(fake: ModuleType, tmp_path: Path) -> None:
    analysis = fake.text_analysis(features=768, contexts=200, length=64)

    folder = write_report(analysis, tmp_path / "report").folder

    shown = len(analysis.examples.feature) / analysis.count
    assert bytes_of(folder / "data/f") / analysis.count <= 350 + 16 * shown
    assert (folder / "data/index.js").stat().st_size / analysis.count <= 24
    assert bytes_of(folder / "data/corpus") / len(analysis.inputs.tokens) <= 3


def test_an_existing_folder_is_left_alone_unless_forced(
    images: Analysis, image_report: Report, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    write_report(images, out)
    (out / "mine.txt").write_text("kept")

    with pytest.raises(OutputExists, match="exists already"):
        write_report(images, out)
    assert (out / "mine.txt").read_text() == "kept"

    write_report(images, out, force=True)
    assert not (out / "mine.txt").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_saved_analysis_gives_the_same_report(
    text: Analysis, text_report: Report, tmp_path: Path
) -> None:
    saved = tmp_path / "analysis"
    saved.mkdir()
    save_analysis(text, saved)

    report = write_report(saved, tmp_path / "report")

    for name in ("f/00000", "index", "corpus/000", "vocab"):
        assert read(report, name) == read(text_report, name)


def test_dictionaries_without_features_or_firings_give_a_report(
    fake: ModuleType, tmp_path: Path
) -> None:
    for features in (0, 1):
        report = write_report(fake.text_analysis(features), tmp_path / str(features))

        assert report.summary["features"] == features
        assert report.summary["alive"] == 0
        assert report.summary["start"] == []


def test_labels_are_baked_in(images: Analysis, tmp_path: Path) -> None:
    entry = {"label": "</script>", "note": "", "star": True}
    labels = tmp_path / "labels.json"
    labels.write_text(
        json.dumps({"format": "probe_sae.labels", "version": 1, "labels": {"3": entry}})
    )

    report = write_report(images, tmp_path / "report", labels=labels)

    assert read(report, "notes") == {"3": entry}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "no readable labels"),
        ("[]", "not a file of labels"),
        ('{"format": "probe_sae.labels", "version": 2}', "version 2"),
        ('{"format": "probe_sae.labels", "version": 1, "labels": {"64": {}}}', "features 0 to 63"),
        ('{"format": "probe_sae.labels", "version": 1, "labels": {"07": {}}}', "features 0 to 63"),
        (
            f'{{"format": "probe_sae.labels", "version": 1, "labels": {{"{"9" * 5000}": {{}}}}}}',
            "features 0 to 63",
        ),
        ("[" * 100_000, "no readable labels"),
    ],
)
def test_wrong_labels_are_refused(
    content: str, message: str, images: Analysis, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(content)

    with pytest.raises(FormatError, match=message):
        write_report(images, tmp_path / "report", labels=labels)
    assert not (tmp_path / "report").exists()


def test_a_class_is_named_however_large_its_number(images: Analysis, tmp_path: Path) -> None:
    inputs = images.inputs
    assert isinstance(inputs, ImageInputs)
    label = inputs.label.copy()
    label[label == 3] = 2_000_000_000
    large = replace(images, inputs=replace(inputs, label=label))

    report = write_report(large, tmp_path / "report")

    assert b"2000000000" in columns(report, "vocab")["bytes"].tobytes()


def test_figures_are_plotly_figures_of_the_same_numbers(text_report: Report) -> None:
    figures = text_report.figures

    assert list(figures) == ["density", "training"]
    counts = text_report.summary["density_histogram"]["counts"]
    assert list(figures["density"].data[0].y) == counts  # type: ignore[index]


def test_a_report_shows_itself_in_a_notebook_without_script(text: Analysis, tmp_path: Path) -> None:
    hostile = replace(text, info={**text.info, "site": "<img src=x onerror=alert(1)>"})

    card = write_report(hostile, tmp_path / "report")._repr_html_()  # pyright: ignore[reportPrivateUsage]

    assert "<img" not in card
    assert "<script" not in card
    assert "0.1634" in card


def test_a_notebook_shows_a_report_in_a_frame(
    text_report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(text_report.folder.parent)
    shown: Any = text_report.show(height=500)

    assert shown.address == f"{text_report.folder.name}/index.html"
    assert 'src="report/index.html"' in shown._repr_html_()
    assert 'height="500"' in shown._repr_html_()
    hostile = Report(tmp_path / 'a "onload=alert(1)', text_report.summary).show()
    assert '"onload' not in hostile._repr_html_()
