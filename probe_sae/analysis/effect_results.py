"""What edits of features did to a host's output, as tables."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from probe_sae.analysis.contexts import visible
from probe_sae.analysis.output_changes import Changes
from probe_sae.host import Host
from probe_sae.shown import Shown, Tabled


class Shifted(NamedTuple):
    """One output, token or class, and how its mean log-probability changed."""

    name: str
    change: float


@dataclass(frozen=True, repr=False)
class HostEffect(Shown):
    """What one edit did."""

    feature: int
    """-1 for a random direction."""
    scale: float
    """Units of activation added or clamped to; 0 where it was taken out."""
    rows: int
    """Rows that were edited."""
    inputs: int
    """Inputs with such rows."""
    kl: float
    """Mean KL(original || edited) in nats, where rows were edited (of a classifier: on inputs with
    such rows); NaN where nothing was edited, or nothing of the kind measured."""
    kl_after: float
    """The same at later positions of these inputs that were not edited themselves."""
    loss_change: float
    """Mean change in nats of the loss of the next token, or of the class."""
    loss_change_after: float
    likelier: tuple[Shifted, ...]
    """Outputs whose mean log-probability rose most where rows were edited."""
    less_likely: tuple[Shifted, ...]
    control: "HostEffect | None" = None


@dataclass(frozen=True, repr=False)
class Effects(Tabled):
    """What edits of features did to the output; each beside its control."""

    mode: str
    """`ablate`, `add` or `clamp`."""
    site: str
    effects: tuple[HostEffect, ...]

    def table(self) -> Any:
        """Return one line an edit as a pandas DataFrame, the control's figures beside."""
        import pandas as pd

        lines: list[dict[str, Any]] = []
        for one in self.effects:
            line: dict[str, Any] = {"feature": one.feature}
            line |= {} if self.mode == "ablate" else {"scale": one.scale}
            line |= {"rows": one.rows, "kl": one.kl, "kl_after": one.kl_after}
            line |= {
                "loss_change": one.loss_change,
                "loss_change_after": one.loss_change_after,
                "likelier": _listed(one.likelier),
                "less_likely": _listed(one.less_likely),
            }
            if one.control is not None:
                beside = one.control
                line |= {
                    "control": "direction" if beside.feature < 0 else str(beside.feature),
                    "control_rows": beside.rows,
                    "control_kl": beside.kl,
                    "control_loss_change": beside.loss_change,
                }
            lines.append(line)
        return pd.DataFrame(lines)


def effect_of(host: Host, feature: int, scale: float, changes: Changes, top: int) -> HostEffect:
    """Return what was gathered of one edit, its outputs named."""
    likelier: tuple[Shifted, ...] = ()
    less_likely: tuple[Shifted, ...] = ()
    shift = changes.shift()
    if shift is not None:
        order = shift.argsort(descending=True, stable=True).tolist()
        named = [Shifted(_name(host, i), float(shift[i])) for i in order[:top]]
        likelier = tuple(one for one in named if one.change > 0)
        named = [Shifted(_name(host, i), float(shift[i])) for i in order[::-1][:top]]
        less_likely = tuple(one for one in named if one.change < 0)
    return HostEffect(
        feature,
        scale,
        changes.rows,
        changes.inputs,
        changes.here.kl,
        changes.after.kl,
        changes.here.loss,
        changes.after.loss,
        likelier,
        less_likely,
    )


def _name(host: Host, output: int) -> str:
    """Return the text of a token, or the name of a class."""
    if host.tokenizer is not None:
        return visible(host.tokenizer.decode([output]))
    names = getattr(host.config, "id2label", None) or {}
    return str(names.get(output, output))


def _listed(shifted: tuple[Shifted, ...]) -> str:
    return " · ".join(one.name for one in shifted)
