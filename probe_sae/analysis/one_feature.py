"""One feature of an analysis, to look at: what a report's page of it says, in a few lines."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.arrays import TOP
from probe_sae.analysis.contexts import TextInputs, visible
from probe_sae.analysis.excerpts import excerpts
from probe_sae.errors import SettingsError
from probe_sae.shown import Fact, Shown, as_text, field_docstrings, plain

if TYPE_CHECKING:
    from probe_sae.analysis.result import Analysis

_PARTNERS = 5


@dataclass(frozen=True)
class Example:
    """A firing, with the text around its token; of an image, its name and place."""

    value: float
    """The activation."""
    before: str
    token: str
    """The token that fires, or the place: row and column of the grid."""
    after: str


@dataclass(frozen=True, repr=False)
class Feature(Shown):
    """What an analysis knows of one feature; `Analysis.feature` makes it."""

    number: int
    label: str
    """In words where a rule tells its firings, else `unclear`."""
    balanced_accuracy: float
    """Of the label on held-out contexts: mean of sensitivity and specificity; 0.5 is chance."""
    interval: tuple[float, float]
    """95 %, of that accuracy."""
    precision: float
    """Of all rows where the label's rule holds, the share that are firings, at the feature's own
    density."""
    firings: int
    """Rows on which it fires."""
    density: float
    """The share of the rows that these are."""
    mean: float
    """Mean of its firings, zeros left out."""
    max: float
    """Largest activation."""
    tokens: str
    """The commonest tokens (images: classes) of its firings, with their shares."""
    promoted: str
    """Tokens that its direction makes likelier, straight through the unembedding."""
    module: int
    """Community of features that fire together; -1 for none."""
    fires_with: tuple[int, ...]
    """Features that fire on the same rows most, by phi."""
    looks_like: tuple[int, ...]
    """Features with the nearest decoder directions."""
    examples: tuple[Example, ...]
    """Its strongest firings, one a context."""

    def _facts(self) -> list[Fact]:
        about = field_docstrings(Feature)
        return [
            Fact(name, value, about.get(name, ""))
            for name, value in vars(self).items()
            if name not in ("number", "examples")
        ]

    def _title(self) -> str:
        return f"Feature {self.number}"

    def __repr__(self) -> str:
        lines = [
            f"{as_text(one.value):>8}  {_text(one.before)}⟦{_text(one.token)}⟧{_text(one.after)}"
            for one in self.examples
        ]
        return "\n".join([super().__repr__(), *lines])

    def _repr_html_(self) -> str:
        lines = [
            f"<tr><td>{as_text(one.value)}</td><td style='text-align:left'>"
            f"{escape(_text(one.before))}<mark>{escape(_text(one.token))}</mark>"
            f"{escape(_text(one.after))}</td></tr>"
            for one in self.examples
        ]
        return f"{super()._repr_html_()}<table>{''.join(lines)}</table>"


def feature_of(analysis: "Analysis", number: int, examples: int) -> Feature:
    """Return a feature; see `Analysis.feature`."""
    if not 0 <= number < analysis.count:
        raise SettingsError(
            f"there is no feature {number}; this analysis has 0 to {analysis.count - 1}."
        )
    columns, labels = analysis.columns, analysis.labels
    promoted = columns.promoted_ids[number][:_PARTNERS].tolist()
    return Feature(
        number=number,
        label=labels.label[number],
        balanced_accuracy=float(labels.balanced_accuracy[number]),
        interval=(float(labels.low[number]), float(labels.high[number])),
        precision=float(labels.precision[number]),
        firings=int(columns.firings[number]),
        density=float(columns.density[number]),
        mean=float(columns.mean[number]),
        max=float(columns.max[number]),
        tokens=analysis.tokens(number, _PARTNERS),
        promoted=" · ".join(visible(analysis.token_text(token)) for token in promoted),
        module=int(columns.module[number]),
        fires_with=_living(columns.cofiring_ids[number]),
        looks_like=_living(columns.nearest_ids[number]),
        examples=tuple(_examples(analysis, number, examples)),
    )


def _living(ids: NDArray[np.int32]) -> tuple[int, ...]:
    return tuple(ids[ids >= 0][:_PARTNERS].tolist())


def _examples(analysis: "Analysis", number: int, most: int) -> Iterable[Example]:
    every, inputs = analysis.examples, analysis.inputs
    own = np.arange(len(every.feature))[every.of(number)]
    own = own[every.kind[own] == TOP]
    own = own[np.argsort(every.rank[own], kind="stable")][:most]
    values, context, position = every.value[own], every.context[own], every.position[own]
    if isinstance(inputs, TextInputs):
        around = excerpts(inputs, context, position)
        for value, one in zip(values.tolist(), around, strict=True):
            yield Example(value, one.before, one.token, one.after)
        return
    width = inputs.grid[1]
    for value, image, place in zip(
        values.tolist(), context.tolist(), position.tolist(), strict=True
    ):
        kind = int(inputs.label[image])
        of = f" of class {analysis.token_text(kind)}" if kind >= 0 else ""
        yield Example(value, f"{inputs.names[image]}{of}, ", f"{divmod(place, width)}", "")


def _text(text: str) -> str:
    return plain(text.replace("\n", "↵").replace("\t", "→"))
