"""One library that learns a known dictionary, in a process of its own; `contest.py` starts these.

Runs in the library's own environment, so nothing of ours is imported but by our own contestant.
Reads `train N`, `judge` and, of TopK, `save FILE` from stdin, answers each with a line of JSON.
Data: directions of length 1, of which a row adds up some: Zipf rates, half of them in groups of
eight that fire together.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

WORLD_SEED = 20_261_121
"""Shared with no seed of a contestant, else its first dictionary could be the truth."""


class Size(NamedTuple):
    """What is learned, and with what."""

    d: int
    features: int
    k: int
    batch: int


SIZES = {
    "a": Size(512, 4096, 32, 4096),
    "b": Size(768, 16384, 32, 2048),
    "c": Size(128, 1024, 8, 1024),
    "wide": Size(256, 1024, 8, 1024),  # little interference
    "dense": Size(64, 512, 12, 1024),  # much of it
}


class World:
    """Rows whose dictionary is known."""

    def __init__(self, size: Size) -> None:
        """Draw directions and rates."""
        generator = torch.Generator().manual_seed(WORLD_SEED)
        self.size = size
        self.directions = normalize(torch.randn(size.features, size.d, generator=generator), dim=1)
        rates = (torch.arange(size.features, dtype=torch.float64) + 1) ** -0.75
        for _ in range(30):
            rates = (rates * size.k / rates.sum()).clamp_max(0.25)
        rates = rates.float()[torch.randperm(size.features, generator=generator)]
        self.grouped = size.features // 2
        self.gates = (rates[: self.grouped].view(-1, 8).amax(1) * 4).clamp_max(0.9)
        self.rates = rates.clone()
        self.rates[: self.grouped] /= self.gates.repeat_interleave(8)

    def rows(self, count: int, seed: int) -> Tensor:
        """Return rows, [count, d]."""
        generator = torch.Generator().manual_seed(WORLD_SEED + 1 + seed)
        fires = torch.rand(count, self.size.features, generator=generator) < self.rates
        opened = torch.rand(count, len(self.gates), generator=generator) < self.gates
        fires[:, : self.grouped] &= opened.repeat_interleave(8, 1)
        rows, features = fires.nonzero(as_tuple=True)
        strength = (1 + 0.25 * torch.randn(len(rows), generator=generator)).abs()
        codes = torch.zeros(count, self.size.features)
        codes[rows, features] = strength
        return codes @ self.directions + 0.01 * torch.randn(count, self.size.d, generator=generator)


class Recorded:
    """Rows that were recorded, on the scale that all expect: E||x||^2 = d.

    `what` is FILE:FEATURES:K:BATCH; the file has tensors `train` and `unseen`, [rows, d].
    """

    def __init__(self, what: str) -> None:
        """Read them."""
        file, features, k, batch = what.rsplit(":", 3)
        parts: dict[str, Tensor] = import_module("safetensors.torch").load_file(file)
        self._train, self._unseen = parts["train"].float(), parts["unseen"].float()
        d = self._train.shape[1]
        scale = (d / self._train.square().sum(1).mean()) ** 0.5
        self._train, self._unseen = self._train * scale, self._unseen * scale
        self.size = Size(d, int(features), int(k), int(batch))

    def rows(self, count: int, seed: int) -> Tensor:
        """Return rows drawn from those to learn from, or for a negative seed from the others."""
        source = self._unseen if seed < 0 else self._train
        generator = torch.Generator().manual_seed(WORLD_SEED + 1 + abs(seed))
        return source[torch.randint(len(source), (count,), generator=generator)]


class Contestant(NamedTuple):
    """What is asked of a library."""

    step: Callable[[Tensor], Any]
    codes: Callable[[Tensor], tuple[Tensor, Tensor]]
    """rows -> codes [rows, features] and reconstructions."""
    directions: Callable[[], Tensor]
    finish: Callable[[Tensor], Any] = lambda rows: None
    weights: Callable[[], dict[str, Tensor]] = dict
    """W_enc and W_dec, [features, d], b_enc, b_dec: codes = top k of W_enc (x - b_dec) + b_enc."""


def ours(arch: str, size: Size, steps: int, lr: float, seed: int, first: Tensor) -> Contestant:
    """Return this project, with its own trainer; lr 0 is its own choice.

    Behind `+` stands a precision, or `published` for a BatchTopK whose batches choose throughout.
    """
    from probe_sae.sae import settings_for
    from probe_sae.training import TrainSettings
    from probe_sae.training.learner import Learner
    from probe_sae.training.runs import Run

    arch, _, precision = arch.partition("+")
    wanted: dict[str, Any] = {"features": size.features, "k": size.k}
    if precision == "published":
        precision, wanted["by_row"] = "", 0.0
    settings = settings_for(arch, wanted)
    trainer = TrainSettings(
        rows=steps * size.batch, batch_size=size.batch, lr=lr, precision=precision or "float32"
    )
    learner = Learner(Run(settings, seed), (size.d,), first, trainer, torch.device("cpu"))
    at = iter(range(10**9))
    return Contestant(
        lambda rows: learner.step(rows, next(at)),
        lambda rows: (learner.sae.encode(rows), learner.sae(rows)),
        learner.sae.directions,
        learner.finish,
        lambda: plain_weights(learner.sae),
    )


def plain_weights(sae: Any) -> dict[str, Tensor]:
    """Return a TopK dictionary's weights for rows as they come, without its scale."""
    scale = sae.input_scale
    return {
        "W_enc": sae.W_enc * scale, "b_enc": sae.b_enc,
        "W_dec": sae.W_dec / scale, "b_dec": sae.b_dec / scale,
    }  # fmt: skip


def saelens(arch: str, size: Size, steps: int, lr: float, seed: int, first: Tensor) -> Contestant:
    """Return SAELens; behind `+` stands the weight of a penalty."""
    arch, _, weight = arch.partition("+")
    sae_lens: Any = import_module("sae_lens")
    config: Any = import_module("sae_lens.config")
    trainers: Any = import_module("sae_lens.training.sae_trainer")
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"d_in": size.d, "d_sae": size.features}
    kinds: dict[str, Any] = {
        "topk": ("TopK", {"k": size.k}),
        "topk-sparse": (
            "TopK",
            {"k": size.k, "use_sparse_activations": True, "rescale_acts_by_decoder_norm": False},
        ),
        "batchtopk": ("BatchTopK", {"k": size.k}),
        "jumprelu": (
            "JumpReLU",
            {
                "jumprelu_sparsity_loss_mode": "quadratic",
                "target_l0": float(size.k),
                "l0_coefficient": float(weight or 1),
                "l0_warm_up_steps": max(1, steps // 10),
            },
        ),
        "l1": (
            "Standard",
            {"l1_coefficient": float(weight or 0.3), "l1_warm_up_steps": max(1, steps // 10)},
        ),
    }
    kind, more = kinds[arch]
    made = getattr(sae_lens, f"{kind}TrainingSAEConfig")(**shape, **more)
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(made)
    trainer = trainers.SAETrainer(
        config.SAETrainerConfig(
            total_training_samples=steps * size.batch,
            train_batch_size_samples=size.batch,
            lr=lr,
            lr_end=lr,
            lr_warm_up_steps=max(1, steps // 20),
            logger=config.LoggingConfig(log_to_wandb=False),
        ),
        sae,
        data_provider=iter(()),
    )

    def step(rows: Tensor) -> None:
        trainer.step(rows)
        trainer.n_training_steps += 1

    def codes(rows: Tensor) -> tuple[Tensor, Tensor]:
        found = sae.encode(rows)
        x_hat = sae.decode(found)
        return (found.to_dense() if found.is_sparse else found), x_hat

    def weights() -> dict[str, Tensor]:
        return {"W_enc": sae.W_enc.T, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}

    return Contestant(step, codes, lambda: sae.W_dec.data, weights=weights)


def sparsify(arch: str, size: Size, steps: int, lr: float, seed: int, first: Tensor) -> Contestant:
    """Return sparsify: the body of its trainer's loop; its trainer wants a language model."""
    library: Any = import_module("sparsify")
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    activation = "groupmax" if arch.startswith("groupmax") else "topk"
    config = library.SparseCoderConfig(num_latents=size.features, k=size.k, activation=activation)
    sae = library.SparseCoder(size.d, config, dtype=torch.float32)
    sae.b_dec.data = first.mean(0)
    is_signum = arch.endswith("signum")
    if is_signum:  # its default, at its own rate
        signs: Any = import_module("sparsify.sign_sgd")
        schedulefree: Any = import_module("schedulefree")
        plain = signs.SignSGD(sae.parameters(), lr=5e-3 / (size.features / 2**14) ** 0.5)
        optimiser: Any = schedulefree.ScheduleFreeWrapper(plain, momentum=0.95)
        optimiser.train()
    else:
        optimiser = torch.optim.Adam(sae.parameters(), lr=lr)
    warm, at = max(1, steps // 20), iter(range(10**9))

    def step(rows: Tensor) -> None:
        if not is_signum:
            optimiser.param_groups[0]["lr"] = lr * min(1.0, (next(at) + 1) / warm)
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=rows, y=rows, total_variance=(rows - rows.mean(0)).pow(2).sum())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    def codes(rows: Tensor) -> tuple[Tensor, Tensor]:
        found = sae.encode(rows)
        dense = torch.zeros(len(rows), size.features)
        dense.scatter_(1, found.top_indices, found.top_acts)
        return dense, sae.decode(found.top_acts, found.top_indices)

    def finish(rows: Tensor) -> None:
        if is_signum:
            optimiser.eval()

    def weights() -> dict[str, Tensor]:
        W_enc, b_enc = sae.encoder.weight, sae.encoder.bias
        return {"W_enc": W_enc, "b_enc": b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}

    return Contestant(step, codes, lambda: sae.W_dec.data, finish, weights)


def dictlearn(arch: str, size: Size, steps: int, lr: float, seed: int, first: Tensor) -> Contestant:
    """Return dictionary_learning; behind `+` stands the weight of a penalty."""
    arch, _, weight = arch.partition("+")
    common: dict[str, Any] = {
        "steps": steps, "activation_dim": size.d, "dict_size": size.features, "layer": 0,
        "lm_name": "none", "lr": lr, "warmup_steps": max(1, steps // 20), "device": "cpu",
        "seed": seed,
    }  # fmt: skip
    slow, begin = (
        {"sparsity_warmup_steps": max(1, steps // 10)},
        {"threshold_start_step": steps // 2},
    )
    module, name, more = {
        "topk": ("top_k", "TopKTrainer", {"k": size.k, **begin}),
        "batchtopk": ("batch_top_k", "BatchTopKTrainer", {"k": size.k, **begin}),
        "jumprelu": (
            "jumprelu",
            "JumpReluTrainer",
            {"target_l0": size.k, "sparsity_penalty": float(weight or 1), **slow},
        ),
        "l1": ("standard", "StandardTrainer", {"l1_penalty": float(weight or 0.3), **slow}),
    }[arch]
    kind: Any = getattr(import_module(f"dictionary_learning.trainers.{module}"), name)
    trainer = kind(**common, **more)
    at = iter(range(10**9))

    def codes(rows: Tensor) -> tuple[Tensor, Tensor]:
        found = trainer.ae.encode(rows)
        return found, trainer.ae.decode(found)

    def directions() -> Tensor:
        own = getattr(trainer.ae, "W_dec", None)
        return trainer.ae.decoder.weight.data.T if own is None else own.data

    def weights() -> dict[str, Tensor]:
        ae = trainer.ae
        W_enc, b_enc = ae.encoder.weight, ae.encoder.bias
        return {"W_enc": W_enc, "b_enc": b_enc, "W_dec": directions(), "b_dec": ae.b_dec}

    return Contestant(
        lambda rows: trainer.update(next(at), rows), codes, directions, weights=weights
    )


LIBRARIES: dict[str, Callable[..., Contestant]] = {
    "ours": ours, "saelens": saelens, "sparsify": sparsify, "dictlearn": dictlearn,
}  # fmt: skip


@torch.no_grad()
def judge(contestant: Contestant, world: World | Recorded) -> dict[str, float]:
    """Return what is unexplained of rows that nobody has seen, and what is found of the truth.

    A direction is recovered where a learned one of a living feature has a cosine over 0.9 with it;
    precision is the share of living features that recover one. Of recorded rows no truth is known.
    """
    rows = world.rows(16_384, -1)
    squared, fired, l0 = 0.0, torch.zeros(world.size.features), 0.0
    for part in rows.split(2048):
        codes, x_hat = contestant.codes(part)
        squared += float((part - x_hat).square().sum())
        fired += (codes != 0).sum(0)
        l0 += float((codes != 0).sum())
    alive = fired > 0
    known = {
        "unexplained": squared / float((rows - rows.mean(0)).square().sum()),
        "l0": l0 / len(rows),
        "dead": 1 - float(alive.float().mean()),
    }
    if isinstance(world, Recorded):
        return known
    cosines = world.directions @ normalize(contestant.directions().float(), dim=1).T
    of_living = cosines[:, alive] if bool(alive.any()) else cosines[:, :1] * 0
    recovered = float((of_living.amax(1) > 0.9).float().mean())
    precision = float((of_living.amax(0) > 0.9).float().mean())
    return known | {
        "mmcs": float(cosines.amax(1).mean()),
        "recovered": recovered,
        "f1": 2 * recovered * precision / max(1e-9, recovered + precision),
    }


def main() -> None:
    """Obey."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    library, arch, name, steps, lr, seed, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    world = World(SIZES[name]) if name in SIZES else Recorded(name)
    first = world.rows(8192, 0)
    contestant = LIBRARIES[library](
        arch, world.size, int(steps), float(lr), 1000 + int(seed), first
    )

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    answer(at_first=judge(contestant, world)["mmcs"] if name in "c wide dense" else None)
    done = 0
    for line in sys.stdin:
        what, *count = line.split()
        if what == "judge":
            contestant.finish(world.rows(8192, -2))
            answer(**judge(contestant, world))
            continue
        if what == "save":
            tensors = {n: w.detach().float().contiguous() for n, w in contestant.weights().items()}
            rows = world.rows(256, -3)
            _, x_hat = contestant.codes(rows)
            tensors |= {"rows": rows, "x_hat": x_hat.detach()}
            import_module("safetensors.torch").save_file(tensors, count[0])
            answer(saved=count[0])
            continue
        cpu = wall = 0.0
        for _ in range(int(count[0])):
            done += 1
            rows = world.rows(world.size.batch, 10_000 * (1 + int(seed)) + done)
            began = time.process_time(), time.perf_counter()
            contestant.step(rows)
            cpu += time.process_time() - began[0]
            wall += time.perf_counter() - began[1]
        answer(cpu=cpu / int(count[0]), wall=wall / int(count[0]))


if __name__ == "__main__":
    main()
