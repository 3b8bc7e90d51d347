"""Say early what is going wrong with a training, and what to do."""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from probe_sae.progress import say
from probe_sae.sae import SAE, PlainSAE, Settings
from probe_sae.training.settings import TrainSettings

MISSED = 1.5
"""A target is missed where what was reached is so many times as much or as little."""
OUTLIER = 10.0
"""A row this many times as long as the median one is an outlier."""

Line = dict[str, Any]


class Alarms:
    """What was noticed in the log of one dictionary; each thing is said once."""

    def __init__(self, name: str = "") -> None:
        self._name = f"{name}: " if name else ""
        self.said: set[str] = set()

    def look(self, log: list[Line], settings: Settings, trainer: TrainSettings) -> None:
        """Look at a log whose last line is new, and warn."""
        for name, alarm in _ALARMS.items():
            message = alarm(log, settings, trainer) if name not in self.said else None
            if message:
                self.said.add(name)
                say(f"warning: {self._name}{message}")

    def look_back(self, log: list[Line], settings: Settings) -> None:
        """Look at the log of a finished run, and warn of a dictionary that should not be used."""
        for message in (_useless(log), _missed_target(log, settings)):
            if message:
                say(f"warning: {self._name}{message}")


def _useless(log: list[Line]) -> str | None:
    last = log[-1]
    if last["fraction_unexplained"] < 1 and last["dead_fraction"] < 1:
        return None
    return (
        f"what was learned explains less than the mean does (fraction unexplained "
        f"{last['fraction_unexplained']:.3g}, {last['dead_fraction']:.0%} of the features dead): "
        "do not use it. Train with the learning rate that is chosen by default, or look at the "
        "rows."
    )


def _missed_target(log: list[Line], settings: Settings) -> str | None:
    wanted, got, what = getattr(settings, "k", None), log[-1]["l0"], "L0"
    if "mean_activation" in log[-1]:
        wanted, got, what = getattr(settings, "rho", None), log[-1]["mean_activation"], "a mean of"
    elif getattr(settings, "coefficient", None) != 0:
        return None  # no penalty, or the user's own weight of it: not a target
    elif getattr(settings, "penalty", "target") != "target":
        return None  # k is where it begins
    if not wanted or MISSED**-1 < got / wanted < MISSED:
        return None
    return (
        f"asked for {what} {wanted:g}, the run ended at {got:.3g}: it was too short for the "
        "penalty to get there. Consume more rows (--rows), or weigh it otherwise (--set beta=... "
        "or coefficient=...)."
    )


def _over(log: list[Line], trainer: TrainSettings, share: float) -> bool:
    """Whether so much of the run is over."""
    return log[-1]["step"] >= share * trainer.steps


def _mean_is_better(log: list[Line], settings: Settings, trainer: TrainSettings) -> str | None:
    if not _over(log, trainer, 0.1):
        return None
    # While the pull towards a sparsity sets in, single batches are worse; a tenth of a run is not.
    since = log[-1]["step"] - max(1.0, 0.1 * trainer.steps)
    recent = takewhile(lambda line: line["step"] > since, reversed(log))
    unexplained = min(line["fraction_unexplained"] for line in recent)
    if not unexplained > 1:
        return None
    return (
        f"fraction unexplained is {unexplained:.2f}, worse than the mean: is this the right site? "
        "Outlier rows or a learning rate that is too high (--set lr=...) do it as well."
    )


def _dying(log: list[Line], settings: Settings, trainer: TrainSettings) -> str | None:
    dead = log[-1]["dead_fraction"]
    if not _over(log, trainer, 0.25) or dead <= 0.2:
        return None
    return (
        f"{dead:.0%} of {settings.features} features are dead after "
        f"{log[-1]['rows']:,} rows. Fewer features (--features), more rows (--rows), or a smaller "
        "batch (--set batch_size=...) would help."
    )


def _silent(log: list[Line], settings: Settings, trainer: TrainSettings) -> str | None:
    last = log[-1]
    if "coefficient" not in last or not _over(log, trainer, 0.1) or last["l0"] > 0.5:
        return None
    return (
        f"L0 is {last['l0']:.2f}: the penalty's coefficient, {last['coefficient']:.3g}, leaves "
        "nothing but the mean. Lower it (--set coefficient=...), or let it find k by itself (0)."
    )


def _crowded(log: list[Line], settings: Settings, trainer: TrainSettings) -> str | None:
    last = log[-1]
    if "coefficient" not in last or not _over(log, trainer, 0.25):
        return None
    if last["l0"] < settings.features / 4:
        return None
    return (
        f"{last['l0']:.0f} of {settings.features} features fire on a row: the penalty's "
        f"coefficient, {last['coefficient']:.3g}, does nothing. Raise it (--set coefficient=...)."
    )


def _no_window(log: list[Line], settings: Settings, trainer: TrainSettings) -> str | None:
    last = log[-1]
    if last.get("in_window", 1.0) >= 0.05:
        return None
    return (
        f"only {last['in_window']:.1%} of the thresholds had a pre-activation in their window in "
        "the last batch: the others get no gradient. Widen it (--set bandwidth=...), or enlarge "
        "the batch."
    )


def _stuck_threshold(log: list[Line], settings: Settings, trainer: TrainSettings) -> str | None:
    first, last = log[0], log[-1]
    if "threshold" not in last or not _over(log, trainer, 0.25):
        return None
    if abs(last["threshold"] - first["threshold"]) > 1e-3 * abs(first["threshold"]):
        return None
    return (
        f"thresholds have not moved from {first['threshold']:.3g}: sparsity is not learned. Raise "
        "the learning rate (--set lr=...) or widen the window (--set bandwidth=...)."
    )


_Alarm = Callable[[list[Line], Settings, TrainSettings], str | None]
_ALARMS: dict[str, _Alarm] = {
    "mean": _mean_is_better,
    "dying": _dying,
    "silent": _silent,
    "crowded": _crowded,
    "window": _no_window,
    "stuck": _stuck_threshold,
}


def warn_of_outliers(sample: Tensor) -> None:
    """Warn of rows that are much longer than the others, such as attention sinks.

    Args:
        sample: raw rows, [rows, width].
    """
    lengths = sample.float().norm(dim=1)
    median = float(lengths.median())
    outliers = lengths > OUTLIER * median
    count = int(outliers.sum())
    if not count:
        return
    share = float(lengths[outliers].double().square().sum() / lengths.double().square().sum())
    worst = int((sample[outliers].double().square().sum(0)).argmax())
    say(
        f"warning: {count / len(sample):.2%} of the rows are over {OUTLIER:.0f} times as long as "
        f"the median one (attention sinks?); they hold {share:.0%} of all squared activation, most "
        f"in dimension {worst}. They set the scale, and their features; record without them "
        "(special tokens are left out unless asked for), or expect features of their own."
    )


def warn_of_scale(sae: SAE, rows: Tensor) -> None:
    """Warn where rows are scaled unlike those that a dictionary was trained on.

    Args:
        sae: the dictionary.
        rows: raw rows as a stream has them, [rows, sum of widths].
    """
    if isinstance(sae, PlainSAE):  # nothing is known of the rows that it was trained on
        return
    x, _ = sae.split(rows)
    power = float((x.double() * sae.input_scale.double()).square().mean())
    if not sae.settings.is_scaled or 0.5 < power < 2 or not len(x):
        return
    say(
        f"warning: rows have {power:.3g} times the mean square of those that this dictionary was "
        "trained on: is it the same site of the same host, and are the rows not normalised twice?"
    )


def name_bad_rows(
    rows: Tensor, first: int, names: Callable[[int], int] | None, where: str = "of the epoch"
) -> str | None:
    """Return a message that names the rows which are not finite; None where all are.

    Args:
        rows: a batch, [rows, width].
        first: how many rows of the epoch came before.
        names: which row of the source is at a place of the epoch, where that is known.
        where: what places count in, where it is not.
    """
    if bool(torch.isfinite(rows.sum())):
        return None
    (bad,) = (~torch.isfinite(rows).all(1)).nonzero(as_tuple=True)
    if not len(bad):
        return None
    listed = [names(first + int(i)) if names else first + int(i) for i in bad[:8]]
    where = "of the data" if names else where
    more = ", ..." if len(bad) > 8 else ""
    return (
        f"{len(bad)} rows of a batch of {len(rows)} hold NaN or infinity: rows "
        f"{', '.join(map(str, listed))}{more} {where}. Record them again without (a host in "
        "float16 overflows; try bfloat16), or drop them."
    )
