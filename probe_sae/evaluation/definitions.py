"""What each metric is, in a sentence or two; `probe-sae guide metrics` says more."""

from typing import Any

from probe_sae.evaluation.formulas import DENSE, HALF, RARE
from probe_sae.sae import DEFINITIONS

_MORE = {
    "cosine": "Mean cosine of a row and its reconstruction. A large mean of the rows brings it to 1"
    " whatever the features do: look at the baseline `mean`.",
    "shrinkage": "Mean of ||x_hat|| / ||x||: below 1, reconstructions are too short. Blind where"
    " rows have a large mean.",
    "relative_bias": "Sum of ||x_hat||^2 over sum of <x, x_hat> (SAEBench's relative reconstruction"
    " bias): 1 is unbiased, below 1 the features say too little. Blind where rows have a large"
    " mean.",
    "relative_bias_centred": "The same of rows and reconstructions less the mean of the rows.",
    "cousins": "What other libraries print as variance explained or its error; not comparable with"
    " 1 - fraction_unexplained.",
    "cousins.row_by_row": "Mean over rows of 1 - ||e||^2 / ||x - mean||^2 (SAELens' and SAEBench's"
    " legacy explained variance, with the mean of the store's rows; they take the batch's). Rows"
    " near the mean, which weigh little, count as much as others.",
    "cousins.bias_blind": "1 - var(e) / var(x) (dictionary_learning's). An error that is the same"
    " on every row is not seen.",
    "cousins.global_mean": "1 - sum ||e||^2 / sum (x - one mean for all dimensions)^2"
    " (overcomplete's r2). Offsets between dimensions count as variance that is explained.",
    "cousins.uncentred": "Mean over rows of ||e||^2 / ||x||^2 (OpenAI's normalised error). The"
    " larger the mean of the rows, the better it looks.",
    "density": "Share of features by the share of rows on which they fire.",
    "density.dead": "On none.",
    "density.rare": f"On some, but under {RARE:g} of them; can be no feature on fewer than"
    f" {1 / RARE:,.0f} rows.",
    "density.common": f"On {RARE:g} to {DENSE:.0%} of them.",
    "density.dense": f"On over {DENSE:.0%} of them.",
    "density.over_half": f"On over {HALF:.0%} of them; part of `dense`.",
    "loss_recovered_zero": "(zero-ablated - spliced) / (zero-ablated - original): what most papers"
    " print. Zero is far from all activations, so that this looks better than `loss_recovered`.",
    "kl": "Mean over targets of KL(host as it is || host with rows replaced) of the predicted"
    " distributions, in nats. Unlike the loss it sees every change, lucky ones too.",
    "kl_recovered": "1 - KL spliced / KL mean-ablated.",
    "kl_recovered_zero": "1 - KL spliced / KL zero-ablated.",
    "accuracy": "Share of targets (next tokens, or classes of images) whose likeliest answer is"
    " right.",
    "accuracy_kept": "Accuracy spliced over accuracy as it is.",
    "agreement": "Share of targets whose likeliest answer is the one that the host gives as it is.",
    "host_positions": "What the host's loss was measured on.",
    "host_positions.contexts": "Texts or images.",
    "host_positions.replaced": "Positions whose activations were replaced: those that are rows of"
    " the store.",
    "host_positions.untouched": "Special tokens (or class tokens): never rows, so never replaced.",
    "host_positions.scored": "Targets: predictions of tokens that are rows, the first after a"
    " special token included; special tokens and padding are never to be predicted. Of images,"
    " their classes.",
    "intervals": "95 %: percentile bootstrap over contexts, whose rows hang together; too narrow"
    " where there are fewer than some 20. None for"
    " shares of dead and rare features, of which a resample always has more.",
    "baselines": "The same metrics of what learned nothing or nothing sparse. mean: the mean of the"
    " store's rows. pca: as many principal components of training rows as the dictionary's L0,"
    " each row's strongest. untrained: the same settings before training. random: random"
    " directions, codes by orthogonal matching pursuit at the same L0. On some of the same rows and"
    " contexts.",
}


def defined(metrics: dict[str, Any]) -> dict[str, str]:
    """Return the definitions of some metrics, and of what is nested in them as `outer.inner`."""
    known = DEFINITIONS | _MORE
    names = list(metrics)
    names += [f"{n}.{part}" for n, v in metrics.items() if isinstance(v, dict) for part in v]
    return {name: known[name] for name in names if name in known}
