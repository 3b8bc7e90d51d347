"""Every loss, gradient and code by its plain formula, for the conformance tests.

Dense, in float64, with ordinary autograd or loops; nothing here calls what it is compared with, and
weights are read by name. The formulas are those of the papers that each architecture names: sums
over dimensions, means over rows, errors over the variance of what is reconstructed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probe_sae.sae import SAE

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """A batch and all numbers of a dictionary: what a formula needs."""

    settings: Any
    widths: tuple[int, ...]
    p: Named
    rows: Tensor
    """Raw, as a stream has them; only the part that is encoded where `running`."""
    dead: list[int]
    share: float
    running: bool
    """As after training: with thresholds and running statistics instead of the batch's."""

    @classmethod
    def of(
        cls,
        sae: SAE,
        rows: Tensor,
        dead: list[int] | None = None,
        share: float = 1.0,
        *,
        running: bool = False,
    ) -> "Problem":
        """Return the problem that a dictionary is to solve, with weights of its own."""
        p = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
        for name, parameter in sae.named_parameters():
            p[name].requires_grad_(parameter.requires_grad)
        return cls(sae.settings, sae.widths, p, rows, dead or [], share, running)


class Answer(NamedTuple):
    """What the formulas give."""

    loss: Tensor
    codes: Tensor
    """[rows, features]"""
    x_hat: Tensor
    """[rows, d_out] in scaled units."""


def gradients(problem: Problem) -> Named:
    """Return the loss's gradient by every parameter that learns; zeros where there is none."""
    if problem.settings.arch == "jumprelu":
        return _jumprelu_gradients(problem)
    wanted = {name: t for name, t in problem.p.items() if t.requires_grad}
    found = torch.autograd.grad(
        answer(problem).loss, list(wanted.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(wanted, found, strict=True))


def answer(problem: Problem) -> Answer:
    """Return loss, codes and reconstruction."""
    return _FORMULAS.get(problem.settings.arch, _top_k)(problem)


def chosen(pre: Tensor, k: float, how: str) -> Tensor:
    """Return 1 where a pre-activation is chosen, else 0, by sorting.

    Args:
        pre: [rows, features].
        k: how many a row.
        how: rows (the k largest of each), signed (of largest magnitude), batch (rows * k in all).
    """
    mask = torch.zeros_like(pre)
    size = abs if how == "signed" else float
    groups = [[(n, i) for i in range(pre.shape[1])] for n in range(len(pre))]
    if how == "batch":
        groups, k = [[place for group in groups for place in group]], k * len(pre)
    for group in groups:
        order = sorted(group, key=lambda at: size(float(pre[at].detach())), reverse=True)
        for at in order[: round(k)]:
            mask[at] = 1.0 if how == "signed" or float(pre[at].detach()) > 0 else 0.0
    return mask


def adam(grads: list[Tensor], rate: float, betas: tuple[float, float]) -> Tensor:
    """Return how Adam moves a weight after the last of these gradients (Kingma and Ba 2015)."""
    first, second = torch.zeros_like(grads[0]), torch.zeros_like(grads[0])
    slow, slower = betas
    for grad in grads:
        first = slow * first + (1 - slow) * grad
        second = slower * second + (1 - slower) * grad**2
    steps = len(grads)
    return -rate * first / (1 - slow**steps) / ((second / (1 - slower**steps)).sqrt() + 1e-8)


def pursuit(row: Tensor, directions: Tensor, k: int) -> tuple[list[float], list[int], Tensor]:
    """Return activations, features and what is left of one row after matching pursuit."""
    values: list[float] = []
    features: list[int] = []
    for _ in range(k):
        products = [float(row @ direction) for direction in directions]
        best = products.index(max(products))
        value = max(0.0, products[best])
        row = row - value * directions[best]
        values.append(value)
        features.append(best)
    return values, features, row


def _error(problem: Problem, target: Tensor, x_hat: Tensor) -> Tensor:
    return ((target - x_hat) ** 2).sum(1).mean() / problem.p["variance"]


def _warm(problem: Problem) -> Tensor | float:
    """Return the coefficient: what was found, or the fixed one, which rises over 5 % of a run."""
    fixed = problem.settings.coefficient
    return fixed * min(1.0, problem.share / 0.05) if fixed else problem.p["coefficient"]


def _top_k(q: Problem) -> Answer:
    """TopK and all that differ from it in choice, views, target or decoder."""
    p, arch = q.p, q.settings.arch
    read = q.rows[:, : p["W_enc"].shape[1]]
    target = read * p["input_scale"]
    seen, beside = target - p["b_dec"] if "centre" not in p else target - p["centre"], 0.0
    if arch == "transcoder":
        target = q.rows[:, q.widths[0] :] * p["output_scale"]
        beside = seen @ p["W_skip"].T if "W_skip" in p else beside
    pre = seen @ p["W_enc"].T + p["b_enc"]
    if arch == "crosscoder" and q.settings.sparsity == "l1":
        return _l1_crosscoder(q, pre.clamp(min=0), target)
    W_dec = _archetypal_decoder(q) if arch == "archetypal" else p["W_dec"]
    how = {"signed_topk": "signed"}.get(arch, "batch" if "threshold" in p else "rows")
    if how == "batch" and q.share < q.settings.by_row:
        how = "rows"
    if q.running and how == "batch":
        codes = pre * ((pre >= p["threshold"]) & (pre > 0))
    else:
        codes = pre * chosen(pre, q.settings.k, how)
    views = [view @ W_dec + p["b_dec"] + beside for view in _views(q, codes)]
    if q.running:
        return Answer(torch.zeros(()), codes, views[-1])
    loss = sum((_error(q, target, view) for view in views), torch.zeros(())) / len(views)
    if q.dead and q.settings.aux_coefficient:
        encoder = p["W_enc"][q.dead], p["b_enc"][q.dead]
        aux = _aux(q, seen, target - views[-1], encoder, W_dec[q.dead])
        loss = loss + q.settings.aux_coefficient * aux
    return Answer(loss, codes, views[-1])


def _views(q: Problem, codes: Tensor) -> list[Tensor]:
    """Return the parts of the codes that are to reconstruct by themselves, all of them last."""
    if q.settings.arch == "matryoshka":
        ends = [round(sum(q.settings.groups[: i + 1]) * len(codes[0])) for i in range(3)]
        return [codes * (torch.arange(len(codes[0])) < end) for end in ends]
    if q.settings.arch == "hierarchical_topk":
        return [codes * chosen(codes, j + 1, "rows") for j in range(q.settings.k)]
    return [codes]


def _aux(
    q: Problem, x: Tensor, error: Tensor, encoder: tuple[Tensor, Tensor], W_dec: Tensor
) -> Tensor:
    """Return AuxK: the share of the error that the strongest dead features do not explain."""
    wanted = q.settings.aux_k or max(1, W_dec.shape[1] // 2)
    x, error = x.detach(), error.detach()
    pre = x @ encoder[0].T + encoder[1]
    explained = (pre * chosen(pre, min(wanted, len(q.dead)), "rows")) @ W_dec
    share = ((error - explained) ** 2).sum() / (error**2).sum()
    return share * min(1.0, len(q.dead) / wanted)


def _archetypal_decoder(q: Problem) -> Tensor:
    positive = q.p["mixture"].clamp(min=0)
    mixed = positive / positive.sum(1, keepdim=True) @ q.p["points"] + q.p["relaxation"]
    return mixed / (mixed**2).sum(1, keepdim=True).sqrt()


def _l1_crosscoder(q: Problem, codes: Tensor, target: Tensor) -> Answer:
    p = q.p
    x_hat = codes @ p["W_dec"] + p["b_dec"]
    costs: list[Tensor] = []
    for direction in p["W_dec"]:
        sites = direction.split(list(q.widths))
        costs.append(sum(((site**2).sum().sqrt() for site in sites), torch.zeros(())))
    penalty = (codes * torch.stack(costs)).sum(1).mean() / p["variance"].sqrt()
    return Answer(_error(q, target, x_hat) + p["coefficient"] * penalty, codes, x_hat)


def _matching_pursuit(q: Problem) -> Answer:
    p, k = q.p, q.settings.k
    target = q.rows * p["input_scale"]
    codes = torch.zeros(len(target), len(p["W_dec"]), dtype=target.dtype)
    lefts: list[Tensor] = []
    for n, row in enumerate(target - p["b_dec"]):
        _, features, _ = pursuit(row.detach(), p["W_dec"].detach(), k)
        left = row
        for i in features:
            value = (left @ p["W_dec"][i]).clamp(min=0)
            left = left - value * p["W_dec"][i]
            codes[n, i] += float(value.detach())
        lefts.append(left)
    x_hat = target - torch.stack(lefts)
    loss = _error(q, target, x_hat)
    if q.dead:
        directions, error = p["W_dec"][q.dead], target - x_hat
        encoder = directions, torch.zeros(len(q.dead), dtype=target.dtype)
        loss = loss + q.settings.aux_coefficient * _aux(q, error, error, encoder, directions)
    return Answer(loss, codes, x_hat)


def _after(q: Problem, h: Tensor, name: str, *, is_normalised: bool) -> Tensor:
    """Return what follows a linear layer: batch norm, where there is one, and an activation."""
    if is_normalised:
        mean, variance = h.mean(0), ((h - h.mean(0)) ** 2).mean(0)
        if q.running:
            mean, variance = q.p[f"{name}.running_mean"], q.p[f"{name}.running_var"]
        h = (h - mean) / (variance + 1e-5).sqrt() * q.p[f"{name}.weight"] + q.p[f"{name}.bias"]
    return {"relu": h.clamp(min=0), "tanh": h.tanh(), "sigmoid": 1 / (1 + (-h).exp())}[
        q.settings.between
    ]


def _pre(q: Problem, x: Tensor) -> Tensor:
    """Return pre-activations without the bias, of scaled rows."""
    h = x if q.settings.output == "sigmoid" else x - q.p["b_dec"]
    for i in range(len(q.settings.hidden)):
        at = i * (2 + q.settings.batch_norm)
        h = h @ q.p[f"encoder.{at}.weight"].T + q.p[f"encoder.{at}.bias"]
        h = _after(q, h, f"encoder.{at + 1}", is_normalised=q.settings.batch_norm)
    return h @ q.p["W_enc"].T


def _written(q: Problem, codes: Tensor, *, frozen: bool = False) -> Tensor:
    p = {name: t.detach() for name, t in q.p.items()} if frozen else q.p
    inner = Problem(q.settings, q.widths, p, q.rows, q.dead, q.share, q.running)
    h, hidden = codes @ p["W_dec"], len(q.settings.hidden)
    if hidden:
        h = h + p["b_code"]
    for i in range(hidden):
        at = i * 2
        h = _after(inner, h, f"decoder.{at}", is_normalised=False)
        at += 1
        h = h @ p[f"decoder.{at}.weight"].T
        if i < hidden - 1:
            h = h + p[f"decoder.{at}.bias"]
    h = h + p["b_dec"]
    return 1 / (1 + (-h).exp()) if q.settings.output == "sigmoid" else h


def _l1(q: Problem) -> Answer:
    target = q.rows * q.p["input_scale"]
    pre = _pre(q, target) + q.p["b_enc"]
    codes = pre.clamp(min=0) if q.settings.activation == "relu" else 1 / (1 + (-pre).exp())
    x_hat = _written(q, codes)
    lengths = (q.p["W_dec"] ** 2).sum(1).sqrt()
    if q.settings.unit_norm:
        lengths = torch.ones_like(lengths)
    penalty = (codes * lengths).sum(1).mean() / q.p["variance"].sqrt()
    return Answer(_error(q, target, x_hat) + _warm(q) * penalty, codes, x_hat)


def _kl(q: Problem) -> Answer:
    rho = q.settings.rho
    codes = 1 / (1 + (-_pre(q, q.rows) - q.p["b_enc"]).exp())
    x_hat = _written(q, codes)
    divergence = torch.zeros((), dtype=codes.dtype)
    for mean in codes.mean(0):
        divergence = divergence + rho * (math.log(rho) - mean.log())
        divergence = divergence + (1 - rho) * (math.log(1 - rho) - (1 - mean).log())
    error = ((q.rows - x_hat) ** 2).sum() / q.rows.numel()
    return Answer(error + q.settings.beta * divergence, codes, x_hat)


def _gated(q: Problem) -> Answer:
    target, p = q.rows * q.p["input_scale"], q.p
    pre = _pre(q, target)
    gate = pre + p["b_enc"]
    codes = (gate > 0) * (p["r_mag"].exp() * pre + p["b_mag"]).clamp(min=0)
    x_hat = _written(q, codes)
    by_gate = _written(q, gate.clamp(min=0), frozen=True)
    penalty = gate.clamp(min=0).sum(1).mean() / p["variance"].sqrt()
    loss = _error(q, target, x_hat) + _error(q, target, by_gate) + _warm(q) * penalty
    return Answer(loss, codes, x_hat)


def _jumprelu_weight(q: Problem) -> float:
    weight = q.settings.coefficient or (2.0 if q.settings.penalty == "target" else 0.002)
    return weight * min(1.0, q.share / 0.05)


def _jumprelu(q: Problem) -> Answer:
    """Return the loss by its value; its gradients are not those of autograd."""
    target, p, kind = q.rows * q.p["input_scale"], q.p, q.settings.penalty
    pre = _pre(q, target) + p["b_enc"]
    codes = pre * (pre > p["threshold"])
    x_hat = _written(q, codes)
    l0 = (codes != 0).double().sum() / len(codes)
    size = (4 * codes * (p["W_dec"] ** 2).sum(1).sqrt()).tanh().sum() / len(codes)
    penalty = {"target": (l0 / q.settings.k - 1) ** 2, "step": l0, "tanh": size}[kind]
    loss = _error(q, target, x_hat) + _jumprelu_weight(q) * penalty
    for i in q.dead:
        below = (p["threshold"][i] - pre[:, i]).clamp(min=0).mean() / p["variance"].sqrt()
        loss = loss + q.settings.dead_coefficient * below
    return Answer(loss, codes, x_hat)


def _jumprelu_gradients(q: Problem) -> Named:
    """Return the published straight-through gradients, summed up by loops.

    With K = 1 where |pre - threshold| < bandwidth / 2, else 0:
    d code / d threshold = -(threshold / bandwidth) K,  d [pre > threshold] / d threshold =
    -K / bandwidth,  d code / d pre = [pre > threshold], and + (threshold / bandwidth) K for `tanh`.
    """
    p, kind, count = q.p, q.settings.penalty, len(q.rows)
    target, width = q.rows * p["input_scale"], float(p["bandwidth"])
    pre = _pre(q, target) + p["b_enc"]
    codes = (pre * (pre > p["threshold"])).detach().requires_grad_()
    smooth = _error(q, target, _written(q, codes))
    slope_of_l0 = _jumprelu_weight(q)
    if kind == "tanh":
        lengths = (p["W_dec"] ** 2).sum(1).sqrt()
        smooth = smooth + _jumprelu_weight(q) * (4 * codes * lengths).tanh().sum() / count
        slope_of_l0 = 0.0
    elif kind == "target":
        l0 = float((codes != 0).sum()) / count
        slope_of_l0 *= 2 * (l0 / q.settings.k - 1) / q.settings.k
    wanted = {name: t for name, t in p.items() if t.requires_grad and name != "threshold"}
    by_codes, *written = torch.autograd.grad(
        smooth, [codes, *wanted.values()], allow_unused=True, materialize_grads=True
    )
    by_pre, by_threshold = torch.zeros_like(pre), torch.zeros_like(p["threshold"])
    pull = q.settings.dead_coefficient / (count * p["variance"].sqrt())
    for n in range(count):
        for i in range(pre.shape[1]):
            at, threshold = float(pre[n, i].detach()), float(p["threshold"][i].detach())
            inside = abs(at - threshold) < width / 2
            by_threshold[i] += by_codes[n, i] * -(threshold / width) * inside
            by_threshold[i] += slope_of_l0 / count * -inside / width
            by_pre[n, i] += by_codes[n, i] * (at > threshold)
            if kind == "tanh":
                by_pre[n, i] += by_codes[n, i] * (threshold / width) * inside
            if i in q.dead and at < threshold:
                by_pre[n, i] -= pull
                by_threshold[i] += pull
    read = torch.autograd.grad(
        pre, list(wanted.values()), by_pre.detach(), allow_unused=True, materialize_grads=True
    )
    sums = [a + b for a, b in zip(written, read, strict=True)]
    return dict(zip(wanted, sums, strict=True)) | {"threshold": by_threshold.detach()}


_FORMULAS: dict[str, Callable[[Problem], Answer]] = {
    "l1": _l1,
    "kl": _kl,
    "gated": _gated,
    "jumprelu": _jumprelu,
    "matching_pursuit": _matching_pursuit,
}
