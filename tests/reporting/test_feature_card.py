"""One feature of an analysis, as a console and a notebook show it."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from probe_sae.analysis.arrays import TOP
from probe_sae.analysis.contexts import TextInputs
from probe_sae.analysis.result import Analysis
from probe_sae.errors import SettingsError


def test_a_feature_has_the_analysiss_numbers(text: Analysis) -> None:
    line = text.features().loc[1]

    feature = text.feature(1)

    assert (feature.label, feature.firings, feature.max) == (line.label, line.firings, line["max"])
    assert feature.interval == pytest.approx((line.low, line.high), nan_ok=True)
    assert feature.tokens.startswith(line.tokens.split(" · ")[0])
    assert all(0 <= other < text.count for other in (*feature.fires_with, *feature.looks_like))


def test_its_examples_are_its_strongest_firings(text: Analysis) -> None:
    kept, inputs = text.examples, text.inputs
    assert isinstance(inputs, TextInputs)
    number = int(np.argmax(text.columns.firings))  # so that random firings are others
    own = np.flatnonzero((kept.feature == number) & (kept.kind == TOP) & (kept.rank < 3))
    own = own[np.argsort(kept.rank[own])]
    tokens = inputs.tokens[inputs.offsets[kept.context[own]] + kept.position[own]]

    shown = text.feature(number, examples=3).examples

    assert [one.value for one in shown] == kept.value[own].tolist()
    expected = ["" if t in inputs.special else inputs.piece(int(t)) for t in tokens]
    assert [one.token for one in shown] == expected
    assert repr(text.feature(number, examples=3)).count("⟦") == 3


def test_a_hostile_label_and_corpus_are_text(text: Analysis) -> None:
    seen: set[str] = set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.add(tag)

    evil = "<script>alert(1)</script>"
    labels = replace(text.labels, label=[evil] * text.count)
    hostile = replace(text, labels=labels, info={**text.info, "site": evil, "host": evil})
    for number in range(0, text.count, 7):
        Parser().feed(hostile.feature(number)._repr_html_())  # pyright: ignore[reportPrivateUsage]
    Parser().feed(hostile._repr_html_())  # pyright: ignore[reportPrivateUsage]

    assert seen <= {"table", "caption", "tr", "th", "td", "mark"}


def test_an_image_feature_names_images_and_places(images: Analysis) -> None:
    alive = int(np.argmax(images.columns.firings))

    example = images.feature(alive, examples=1).examples[0]

    assert example.before.startswith(tuple(images.inputs.names))  # type: ignore[union-attr]
    assert example.token.startswith("(")


def test_an_analysis_shows_counts_and_metrics_and_no_array(text: Analysis) -> None:
    shown = repr(text)

    assert len(shown) < 1500
    assert f"dead                  {int((text.columns.firings == 0).sum())}" in shown
    assert "0.1634" in shown


@pytest.mark.parametrize("number", [-1, 300])
def test_a_feature_that_is_none_is_an_error(text: Analysis, number: int) -> None:
    with pytest.raises(SettingsError, match=r"no feature .* has 0 to 299"):
        text.feature(number)
