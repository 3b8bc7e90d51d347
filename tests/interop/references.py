"""Other libraries' formulas in float64, from their files, and files as they write them.

Written from their sources; `tests/benchmarks/exchange.py` runs the libraries themselves.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D, MANY, K = 10, 24, 4
Run = tuple[Tensor, Tensor]


def rows() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(2)) * 5 + 3


def drawn(*shape: int, seed: int = 0, positive: bool = False) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return made.abs() * 2 if positive else made


def kept(pre: Tensor, k: int, *, signed: bool = False) -> Tensor:
    best = (pre.abs() if signed else pre.relu()).topk(k).indices
    values = pre.gather(1, best)
    return torch.zeros_like(pre).scatter(1, best, values if signed else values.relu())


def write_json(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


# SAELens


def saelens(
    arch: str, config: dict[str, Any] | None = None, **tensors: Tensor
) -> Callable[..., None]:
    def write(folder: Path) -> None:
        size = {"architecture": arch, "d_in": D, "d_sae": MANY, "normalize_activations": "none"}
        metadata = {
            "sae_lens_version": "6.5.0",
            "model_name": "gpt2",
            "hook_name": "blocks.3.hook_x",
        }
        write_json(folder / "cfg.json", size | {"metadata": metadata} | (config or {}))
        b_enc = {"b_gate" if arch == "gated" else "b_enc": drawn(MANY)}
        weights = {"W_enc": drawn(D, MANY), "W_dec": drawn(MANY, D), "b_dec": drawn(D, seed=5)}
        save_file(weights | b_enc | tensors, folder / "sae_weights.safetensors")

    return write


def run_saelens(folder: Path, x: Tensor) -> Run:
    config = json.loads((folder / "cfg.json").read_text())
    w = {n: t.double() for n, t in load_file(folder / "sae_weights.safetensors").items()}
    z, deviation, mean = x.double(), torch.ones(()), torch.zeros(())
    if config["normalize_activations"] == "layer_norm":
        mean, deviation = z.mean(1, keepdim=True), z.std(1, keepdim=True)
        z = (z - mean) / (deviation + 1e-5)
    if config["normalize_activations"] == "constant_norm_rescale":
        deviation = z.norm(dim=1, keepdim=True) / D**0.5
        z = z / deviation
    arch = config["architecture"]
    centred = config.get("apply_b_dec_to_input", True) and "transcoder" not in arch
    pre = (z - w["b_dec"] if centred else z) @ w["W_enc"] + w.get("b_enc", 0)
    lengths = torch.ones(())
    if config.get("rescale_acts_by_decoder_norm"):
        lengths = w["W_dec"].norm(dim=1)
    if arch == "gated":
        magnitude = pre * w["r_mag"].exp() + w["b_mag"]
        codes = (pre + w["b_gate"] > 0) * magnitude.relu()
    elif arch in ("topk", "abstopk"):
        codes = kept(pre * lengths, config["k"], signed=arch == "abstopk")
    elif "threshold" in w:
        codes = pre.relu() * (pre > w["threshold"])
    else:
        codes = pre.relu()
    out = (codes / lengths @ w["W_dec"] + w["b_dec"]) * deviation + mean
    return codes, out + x.double() @ w["W_skip"].T if "W_skip" in w else out


# sparsify


def sparsify(**config: Any) -> Callable[..., None]:
    def write(folder: Path) -> None:
        write_json(folder / "cfg.json", {"d_in": D, "num_latents": MANY, "k": K} | config)
        weights = {"encoder.weight": drawn(MANY, D), "encoder.bias": drawn(MANY)}
        weights |= {"W_dec": drawn(MANY, D, seed=3), "b_dec": drawn(D, seed=5)}
        skip = {"W_skip": drawn(D, D)} if config.get("skip_connection") else {}
        save_file(weights | skip, folder / "sae.safetensors")

    return write


def run_sparsify(folder: Path, x: Tensor) -> Run:
    config = json.loads((folder / "cfg.json").read_text())
    w = {n: t.double() for n, t in load_file(folder / "sae.safetensors").items()}
    z = x.double() if config.get("transcode") else x.double() - w["b_dec"]
    pre, k = z @ w["encoder.weight"].T + w["encoder.bias"], config["k"]
    codes = kept(pre, k)
    if config.get("activation") == "groupmax":
        best = pre.relu().unflatten(1, (k, -1)).max(2)
        places = best.indices + torch.arange(k) * (pre.shape[1] // k)
        codes = torch.zeros_like(pre).scatter(1, places, best.values)
    out = codes @ w["W_dec"] + w["b_dec"]
    return codes, out + x.double() @ w["W_skip"].T if "W_skip" in w else out


# dictionary_learning


def dictionary_learning(kind: str, *, config: bool = True, **more: Tensor) -> Callable[..., None]:
    linear = {"encoder.weight": drawn(MANY, D), "decoder.weight": drawn(D, MANY, seed=3)}
    bias, b_dec = {"encoder.bias": drawn(MANY)}, {"b_dec": drawn(D, seed=5)}
    matrices = {"W_enc": drawn(D, MANY), "W_dec": drawn(MANY, D), "b_enc": drawn(MANY)}
    chosen = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(1.5)}
    state = {
        "AutoEncoder": linear | bias | {"bias": drawn(D, seed=5)},
        "AutoEncoderNew": linear | bias | {"decoder.bias": drawn(D, seed=5)},
        "GatedAutoEncoder": linear
        | {"decoder_bias": drawn(D, seed=5), "gate_bias": drawn(MANY), "r_mag": drawn(MANY) / 5}
        | {"mag_bias": drawn(MANY, seed=7)},
        "JumpReluAutoEncoder": matrices | b_dec | {"threshold": drawn(MANY, positive=True)},
        "AutoEncoderTopK": linear | bias | b_dec | chosen,
        "BatchTopKSAE": linear | bias | b_dec | chosen,
        "MatryoshkaBatchTopKSAE": matrices
        | b_dec
        | chosen
        | {"group_sizes": torch.tensor([6, MANY - 6])},
    }[kind] | more

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        torch.save(state, folder / "ae.pt")
        if config:
            trainer = {"dict_class": kind, "k": K, "lm_name": "pythia", "layer": 3}
            write_json(folder / "config.json", {"trainer": trainer, "buffer": {}})

    return write


def run_dictionary_learning(folder: Path, x: Tensor) -> Run:
    kind = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    w = {n: t.double() for n, t in torch.load(folder / "ae.pt", weights_only=True).items()}
    z = x.double()
    W_enc = w["W_enc"] if "W_enc" in w else w["encoder.weight"].T
    W_dec = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
    b_dec = w.get("b_dec", w.get("bias", w.get("decoder.bias", w.get("decoder_bias"))))
    assert b_dec is not None
    if kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        z = z - b_dec
    b_enc = w.get("b_enc", w.get("encoder.bias", torch.zeros(())))
    if kind == "AutoEncoder":  # its loader brings directions to length 1
        lengths = W_dec.norm(dim=1)
        W_enc, b_enc, W_dec = W_enc * lengths, b_enc * lengths, W_dec / lengths[:, None]
    pre = z @ W_enc + b_enc
    if kind == "GatedAutoEncoder":
        codes = (pre + w["gate_bias"] > 0) * (w["r_mag"].exp() * pre + w["mag_bias"]).relu()
    elif kind == "AutoEncoderTopK":
        codes = kept(pre, int(w["k"]))
    else:
        codes = pre.relu() * (pre.relu() > w.get("threshold", torch.tensor(-1.0)))
    return codes, codes @ W_dec + b_dec


# Gemma Scope


def gemma_scope(*, skip: bool = False, d_out: int = D, second: bool = False) -> Callable[..., None]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        w = {"W_enc": drawn(D, MANY), "W_dec": drawn(MANY, d_out), "b_enc": drawn(MANY)}
        w |= {"b_dec": drawn(d_out, seed=5), "threshold": drawn(MANY, positive=True)}
        if not second:
            arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in w.items()}
            np.savez(folder / "params.npz", **arrays)
            return
        w = {name.lower(): tensor for name, tensor in w.items()}
        config: dict[str, Any] = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt"}
        config |= {"hf_hook_point_in": "model.layers.3.pre", "hf_hook_point_out": "model.layers.3"}
        if skip:
            w["affine_skip_connection"] = drawn(D, d_out, seed=9)
        save_file(w, folder / "params.safetensors")
        write_json(folder / "config.json", config)

    return write


def run_gemma_scope(folder: Path, x: Tensor) -> Run:
    if (folder / "params.npz").exists():
        with np.load(folder / "params.npz") as arrays:
            w = {n.lower(): torch.from_numpy(arrays[n]).double() for n in arrays.files}
    else:
        w = {n: t.double() for n, t in load_file(folder / "params.safetensors").items()}
    pre = x.double() @ w["w_enc"] + w["b_enc"]
    codes = pre.relu() * (pre > w["threshold"])
    out = codes @ w["w_dec"] + w["b_dec"]
    if "affine_skip_connection" in w:
        out = out + x.double() @ w["affine_skip_connection"]
    return codes, out


# OpenAI


def openai(kind: str, *, tied: bool = False) -> Callable[..., None]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        decoder = {"decoder.linear.weight": drawn(MANY, D)} if tied else {}
        state: dict[str, Any] = {
            "pre_bias": drawn(D),
            "encoder.weight": drawn(MANY, D),
            "latent_bias": drawn(MANY),
            **(decoder or {"decoder.weight": drawn(D, MANY)}),
            "stats_last_nonzero": torch.zeros(MANY, dtype=torch.int64),
            "activation": kind,
        }
        if kind == "TopK":
            state["activation_state_dict"] = {"k": K, "postact_fn": "ReLU"}
        torch.save(state, folder / "autoencoder.pt")

    return write


def run_openai(folder: Path, x: Tensor) -> Run:
    state = torch.load(folder / "autoencoder.pt", weights_only=True)
    w = {n: t.double() for n, t in state.items() if isinstance(t, Tensor)}
    z, mean, deviation = x.double(), torch.zeros(()), torch.ones(())
    is_topk = state["activation"] == "TopK"
    if is_topk:
        mean, deviation = z.mean(1, keepdim=True), z.std(1, keepdim=True)
        z = (z - mean) / (deviation + 1e-5)
    pre = (z - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    codes = kept(pre, state["activation_state_dict"]["k"]) if is_topk else pre.relu()
    W_dec = w["decoder.linear.weight"] if "decoder.linear.weight" in w else w["decoder.weight"].T
    return codes, (codes @ W_dec + w["pre_bias"]) * deviation + mean


RUN: dict[str, Callable[[Path, Tensor], Run]] = {
    "saelens": run_saelens,
    "sparsify": run_sparsify,
    "dictionary_learning": run_dictionary_learning,
    "gemma_scope": run_gemma_scope,
    "openai": run_openai,
}
