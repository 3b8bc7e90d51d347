"""Results show themselves briefly, in a console and in a notebook; markup in them stays text."""

import dataclasses
import re
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import probe_sae as ps
from probe_sae.analysis.effect_results import HostEffect
from probe_sae.host.proof import Finding, Proof
from probe_sae.progress import in_notebook, progress
from probe_sae.reporting import Report
from probe_sae.shown import Shown, as_text, field_docstrings

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\u202e\ud800\x00\n"
ALLOWED = {"table", "caption", "tr", "th", "td", "mark"}


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """A result."""

    share: float
    """Hits over
    rows."""
    best: NDArray[np.float64]
    name: str
    missing: int | None = None


def tags(html: str) -> set[str]:
    """Return the names of all tags, and of all attributes as `@name`."""
    found: set[str] = set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.add(tag)
            found.update(f"@{name}" for name, _ in attrs)

    Parser().feed(html)
    return found


def html_of(shown: object) -> str:
    return getattr(shown, "_repr_html_")()  # noqa: B009


def test_a_result_shows_names_and_values_and_no_array() -> None:
    result = Result(0.123456, np.linspace(0, 2, 10_000), "plain")

    assert repr(result) == (
        "Result\n  share  0.1235\n  best   [10000] float64, 0 to 2\n  name   plain"
    )


def test_a_notebook_shows_what_each_value_is() -> None:
    html = html_of(Result(0.5, np.zeros(3), "plain"))

    assert "Hits over rows." in html
    assert "missing" not in html
    assert tags(html) <= ALLOWED | {"@style"}


def test_markup_in_names_and_values_is_text() -> None:
    result = Result(0.5, np.zeros(0), HOSTILE)
    host = ps.Host(nn.Linear(2, 2), HOSTILE)

    assert tags(html_of(result)) | tags(html_of(host)) <= ALLOWED | {"@style"}
    assert "\u202e" not in html_of(result) + repr(result)
    html_of(result).encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (12_345, "12,345"),
        (float("nan"), "nan"),
        ((0.25, 0.5), "0.25, 0.5"),
        (list(range(100)), "0, 1, 2, 3, 4, … (100 in all)"),
        ({"a": 1}, "a: 1"),
        (torch.zeros(2, 3), "[2, 3] float32"),
        (np.array([np.nan, 1, 3]), "[3] float64, 1 to 3"),
        (np.array([np.nan]), "[1] float64"),
        ("x" * 200, "x" * 99 + "…"),
    ],
)
def test_a_value_is_one_short_line(value: object, text: str) -> None:
    assert as_text(value) == text


RESULTS = [
    kind
    for kind in [*(getattr(ps, name) for name in ps.__all__), HostEffect, Proof, Report]
    if dataclasses.is_dataclass(kind)
]


@pytest.mark.parametrize("kind", RESULTS)
def test_every_public_result_with_an_array_shows_itself_briefly(kind: type) -> None:
    holds_arrays = any(
        re.search(r"ndarray|^<class 'torch.Tensor'>|^torch.Tensor", str(field.type))
        for field in dataclasses.fields(kind)
    )

    if holds_arrays or issubclass(kind, Shown):
        assert issubclass(kind, Shown)
        assert not vars(kind)["__dataclass_params__"].repr


def test_docstrings_under_fields_are_found_in_bases_too() -> None:
    assert field_docstrings(ps.BatchTopK)["k"] == field_docstrings(ps.TopK)["k"]
    assert field_docstrings(ps.Recovery)["l0"] == "Mean number of features that fire on a row."


def test_a_dictionary_in_a_notebook_shows_its_settings() -> None:
    html = html_of(ps.make_sae(ps.TopK(features=8, k=2), 4))

    assert "TopK" in html
    assert field_docstrings(ps.TopK)["k"] in html


def test_an_evaluation_shows_intervals_baselines_and_definitions() -> None:
    found = ps.Evaluation(
        {"l0": 4.0, "loss": {"original": 1.5}},
        {"l0": "Firings over rows."},
        {"l0": (3.5, 4.5)},
        {"pca": {"l0": 4.25}},
    )

    assert (
        repr(found) == "Evaluation\n  l0             4 (3.5 to 4.5); pca 4.25\n  loss.original  1.5"
    )
    assert "Firings over rows." in html_of(found)


class Screen:
    """What a notebook shows."""

    def __init__(self) -> None:
        self.pictures: list[str] = []
        self.HTML = str

    def display(self, picture: str, display_id: bool) -> "Screen":
        self.pictures.append(picture)
        return self

    def update(self, picture: str) -> None:
        self.pictures.append(picture)


def test_progress_shows_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    shell = SimpleNamespace(kernel=object())
    ipython: Any = SimpleNamespace(get_ipython=lambda: shell, display=screen)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", screen)

    with progress("<b>", 10) as advance:
        advance(4)

    assert "max='10'" in screen.pictures[0]
    assert "4 rows" in screen.pictures[-1]
    assert "<b>" not in screen.pictures[-1]
    assert capsys.readouterr().err == ""


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython: Any = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=None))
    monkeypatch.setitem(sys.modules, "IPython", ipython)

    assert not in_notebook()


def test_a_proof_shows_what_does_not_hold() -> None:
    proof = Proof("toy", None, [Finding("a == b", True, 0.0), Finding("b == c", False, 2.5)])

    assert "holds      no" in repr(proof)
    assert "NO         b == c" in repr(proof)


def test_a_world_shows_its_settings_and_no_directions() -> None:
    world = ps.World(ps.WorldSettings(features=16, d_model=8, l0=2))

    assert "directions    [16, 8] float32" in repr(world)
    assert field_docstrings(ps.WorldSettings)["zipf"] in html_of(world).replace("&#x27;", "'")
