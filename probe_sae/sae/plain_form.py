"""Our dictionaries in plain form: the same codes and reconstructions, of raw rows, without a scale.

Scales are folded into weights: W_enc s, centre / s, W_dec / s_out, b_dec / s_out; codes stay as
they are.
"""

from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.sae.architectures.batchtopk import BatchTopKSAE
from probe_sae.sae.architectures.crosscoder import CrosscoderSAE
from probe_sae.sae.architectures.gated import GatedSAE
from probe_sae.sae.architectures.jumprelu import JumpReLUSAE
from probe_sae.sae.architectures.kl import KLSAE
from probe_sae.sae.architectures.l1 import L1SAE
from probe_sae.sae.architectures.matching_pursuit import MatchingPursuitSAE
from probe_sae.sae.architectures.plain import Plain, PlainSAE
from probe_sae.sae.architectures.signed_topk import SignedTopKSAE
from probe_sae.sae.architectures.topk import TopKSAE
from probe_sae.sae.architectures.transcoder import TranscoderSAE
from probe_sae.sae.dense import DenseSAE
from probe_sae.sae.dictionary import SAE
from probe_sae.sae.linear import LinearSAE


@torch.no_grad()
def as_plain(sae: SAE) -> PlainSAE:
    """Return a dictionary in plain form; provenance comes along, the log does not.

    Raises:
        SettingsError: it has none: several layers, several sites, features chosen one after the
            other, or a threshold that was never set.
    """
    if isinstance(sae, PlainSAE):
        return sae
    problem = _unlike_plain(sae)
    if problem or not isinstance(sae, LinearSAE | DenseSAE):
        raise SettingsError(f"a {sae.settings.arch} dictionary has no plain form: {problem}.")
    scale, scale_out = sae.input_scale.double(), sae._output_scale().double()  # pyright: ignore[reportPrivateUsage]
    centre = sae.b_dec if isinstance(sae, DenseSAE) else sae._centre()  # pyright: ignore[reportPrivateUsage]
    weights = {
        "W_enc": sae.W_enc.double() * scale,
        "b_enc": sae.b_enc.double(),
        "centre": centre.double() / scale,
        "W_dec": sae.W_dec.double() / scale_out,
        "b_dec": sae.b_dec.double() / scale_out,
    }
    if isinstance(sae, TranscoderSAE) and sae.W_skip is not None:
        skip = sae.W_skip.double()
        weights["W_skip"] = skip * scale / scale_out
        weights["b_dec"] = (sae.b_dec.double() - skip @ centre.double()) / scale_out
    settings, more = _activation(sae)
    plain = Plain(sae.features, skip="W_skip" in weights, **settings).build(sae.widths)
    for name, weight in (weights | more).items():
        plain.get_parameter(name).copy_(weight)
    plain.provenance = dict(sae.provenance)
    return plain.eval()


def _unlike_plain(sae: SAE) -> str:
    """Return why a dictionary has no plain form; nothing where it has one."""
    if isinstance(sae, CrosscoderSAE):
        return "its features are written to several sites"
    if len(sae.widths) > 1 and sae.is_autoencoder:
        return "its rows are of several sites"
    if isinstance(sae, MatchingPursuitSAE):
        return "each of its features is chosen by what the earlier ones leave"
    if isinstance(sae, DenseSAE) and not sae.is_linear:
        return "it has hidden layers, or a sigmoid behind the decoder"
    if isinstance(sae, KLSAE) or (isinstance(sae, L1SAE) and sae.settings.activation != "relu"):
        return "its features are sigmoids"
    if isinstance(sae, BatchTopKSAE) and bool(torch.isnan(sae.threshold)):
        return "its threshold was never set; finish the training first"
    if isinstance(sae, TopKSAE | L1SAE | GatedSAE | JumpReLUSAE):
        return ""
    return "other libraries have nothing like it"


def _activation(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return settings of the activation, and the weights that belong to it."""
    if isinstance(sae, BatchTopKSAE):
        # ours fires at the threshold, theirs over it
        limit = sae.threshold.nextafter(torch.full_like(sae.threshold, -torch.inf))
        return {"activation": "jumprelu"}, {"threshold": limit.clamp_min(0).expand(sae.features)}
    if isinstance(sae, TopKSAE):
        kind = "signed_topk" if isinstance(sae, SignedTopKSAE) else "topk"
        return {"activation": kind, "k": int(sae.settings.k)}, {}
    if isinstance(sae, JumpReLUSAE):
        return {"activation": "jumprelu"}, {"threshold": sae.threshold}
    if isinstance(sae, GatedSAE):
        return {"activation": "gated"}, {"r_mag": sae.r_mag, "b_mag": sae.b_mag}
    return {"activation": "relu"}, {}


@torch.no_grad()
def with_centre(plain: PlainSAE, centre: Tensor) -> PlainSAE:
    """Return the same dictionary with another centre, made up for in the encoder's biases.

    Args:
        plain: the dictionary.
        centre: [d_model]
    """
    if torch.equal(plain.centre, centre):
        return plain
    moved = plain.settings.build(plain.widths).eval()
    moved.load_state_dict(plain.state_dict())
    moved.provenance = plain.provenance
    shift = plain.W_enc.double() @ (centre - plain.centre).double()
    _add(moved.b_enc, shift)
    if moved.r_mag is not None and moved.b_mag is not None:
        _add(moved.b_mag, shift * moved.r_mag.double().exp())
    moved.centre.copy_(centre)
    return moved


def _add(weight: Tensor, change: Tensor) -> None:
    weight.copy_(weight.double() + change)
