"""The peers' side of `exchange.py`; runs in a venv of the peer's, and knows nothing of ours.

python exchange_peer.py LIBRARY write FOLDER     write a checkpoint of each class, with codes
python exchange_peer.py LIBRARY read FOLDER      encode with the checkpoint in each folder
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

import numpy as np
import torch
from safetensors.torch import load_file, save_file

D, FEATURES, K = 24, 96, 5


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    mixing = torch.randn(D, D, generator=generator)
    return torch.randn(400, D, generator=generator) @ mixing * 3 + 5


@torch.no_grad()
def shake(module: torch.nn.Module) -> None:
    """Give every parameter values that matter: thresholds positive, the rest random."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in sorted(module.named_parameters()):
        drawn = torch.randn(weight.shape, generator=generator)
        if "threshold" in name:
            weight.copy_(drawn.abs() * 2)
        elif weight.ndim == 1:
            weight.copy_(drawn * (0.2 if "mag" in name else 1.0))
        else:
            weight.copy_(drawn * 0.3)


def keep(folder: Path, codes: torch.Tensor, out: torch.Tensor) -> None:
    dense = {"codes": codes.detach().float(), "out": out.detach().float()}
    save_file({n: t.contiguous() for n, t in dense.items()}, folder / "expected.safetensors")


def saelens_write(base: Path) -> None:
    saes = import_module("sae_lens.saes")
    t = import_module("sae_lens.saes.transcoder")
    size: dict[str, Any] = {"d_in": D, "d_sae": FEATURES}
    kinds: dict[str, Any] = {
        "standard": (saes.StandardSAE, saes.StandardSAEConfig, {}),
        "standard uncentred": (
            saes.StandardSAE,
            saes.StandardSAEConfig,
            {"apply_b_dec_to_input": False},
        ),
        "standard layer_norm": (
            saes.StandardSAE,
            saes.StandardSAEConfig,
            {"normalize_activations": "layer_norm"},
        ),
        "standard constant_norm_rescale": (
            saes.StandardSAE,
            saes.StandardSAEConfig,
            {"normalize_activations": "constant_norm_rescale"},
        ),
        "gated": (saes.GatedSAE, saes.GatedSAEConfig, {}),
        "topk": (saes.TopKSAE, saes.TopKSAEConfig, {"k": K}),
        "topk rescaled": (
            saes.TopKSAE,
            saes.TopKSAEConfig,
            {"k": K, "rescale_acts_by_decoder_norm": True},
        ),
        "abstopk": (saes.AbsTopKSAE, saes.AbsTopKSAEConfig, {"k": K}),
        "jumprelu": (saes.JumpReLUSAE, saes.JumpReLUSAEConfig, {}),
        "transcoder": (t.Transcoder, t.TranscoderConfig, {"d_out": D}),
        "skip_transcoder": (t.SkipTranscoder, t.SkipTranscoderConfig, {"d_out": D}),
        "jumprelu_transcoder": (t.JumpReLUTranscoder, t.JumpReLUTranscoderConfig, {"d_out": D}),
        "jumprelu_skip_transcoder": (
            t.JumpReLUSkipTranscoder,
            t.JumpReLUSkipTranscoderConfig,
            {"d_out": D},
        ),
    }
    x = rows()
    for name, (kind, config, more) in kinds.items():
        more = dict(more)
        if "transcoder" in name:
            more["apply_b_dec_to_input"] = False
        sae = kind(config(**size, **more))
        shake(sae)
        folder = base / name
        sae.save_model(folder)
        keep(folder, sae.encode(x), sae(x))
    for name, kind, config, more in (
        ("batchtopk", saes.BatchTopKTrainingSAE, saes.BatchTopKTrainingSAEConfig, {"k": K}),
        (
            "matryoshka_batchtopk",
            saes.MatryoshkaBatchTopKTrainingSAE,
            saes.MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": K, "matryoshka_widths": [FEATURES // 4, FEATURES]},
        ),
    ):
        sae = kind(config(**size, **more))
        shake(sae)
        sae.topk_threshold.fill_(3.0)
        folder = base / name
        sae.save_inference_model(folder)
        again = import_module("sae_lens").SAE.load_from_disk(folder)
        keep(folder, again.encode(x), again(x))
        sae.save_model(base / f"{name} checkpoint")  # as training leaves it
        keep(base / f"{name} checkpoint", again.encode(x), again(x))


def saelens_read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    sae = import_module("sae_lens").SAE.load_from_disk(folder)
    return sae.encode(rows()), sae(rows())


def sparsify_write(base: Path) -> None:
    sparsify = import_module("sparsify")
    for name, more in (
        ("topk", {}),
        ("topk skip", {"skip_connection": True}),
        ("groupmax", {"activation": "groupmax", "k": 8}),
        ("transcoder", {"transcode": True}),
        ("skip transcoder", {"transcode": True, "skip_connection": True}),
    ):
        coder = sparsify.SparseCoder(
            D, sparsify.SparseCoderConfig(**{"num_latents": FEATURES, "k": K} | more)
        )
        shake(coder)
        coder.save_to_disk(base / name)
        keep(base / name, *sparsify_codes(coder))


def sparsify_codes(coder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x = rows()
    found = coder.encode(x)
    codes = torch.zeros(len(x), coder.num_latents).scatter_(1, found.top_indices, found.top_acts)
    out = coder.decode(found.top_acts, found.top_indices)
    if coder.W_skip is not None:  # as its forward does, which is for CUDA only
        out = out + x @ coder.W_skip.mT
    return codes, out


def sparsify_read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return sparsify_codes(import_module("sparsify").SparseCoder.load_from_disk(folder))


def dictionary_learning_write(base: Path) -> None:
    d = import_module("dictionary_learning.dictionary")
    batch = import_module("dictionary_learning.trainers.batch_top_k")
    nested = import_module("dictionary_learning.trainers.matryoshka_batch_top_k")
    topk = import_module("dictionary_learning.trainers.top_k")
    groups = [FEATURES // 4, FEATURES - FEATURES // 4]
    x = rows()
    for sae in (
        d.AutoEncoder(D, FEATURES),
        d.AutoEncoderNew(D, FEATURES),
        d.GatedAutoEncoder(D, FEATURES),
        d.JumpReluAutoEncoder(D, FEATURES),
        topk.AutoEncoderTopK(D, FEATURES, K),
        batch.BatchTopKSAE(D, FEATURES, K),
        nested.MatryoshkaBatchTopKSAE(D, FEATURES, K, groups),
    ):
        name = type(sae).__name__
        shake(sae)
        if "BatchTopK" in name:
            sae.threshold.fill_(2.5)
        folder = base / name
        folder.mkdir(parents=True)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "k": K, "activation_dim": D, "dict_size": FEATURES}
        trainer |= {"lm_name": "some/model", "submodule_name": "resid_post_layer_3", "layer": 3}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
        loaded, _ = import_module("dictionary_learning.utils").load_dictionary(str(folder), "cpu")
        keep(folder, loaded.encode(x), loaded(x))


def dictionary_learning_read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    sae, _ = import_module("dictionary_learning.utils").load_dictionary(str(folder), "cpu")
    return sae.encode(rows()), sae(rows())


def openai_write(base: Path) -> None:
    model = import_module("sparse_autoencoder.model")
    x = rows()
    for name, kind in (
        ("relu", model.Autoencoder(FEATURES, D)),
        ("topk", model.Autoencoder(FEATURES, D, activation=model.TopK(K), normalize=True)),
        ("tied relu", model.Autoencoder(FEATURES, D, tied=True)),
    ):
        shake(kind)
        folder = base / name
        folder.mkdir(parents=True)
        torch.save(kind.state_dict(), folder / "autoencoder.pt")
        codes, info = kind.encode(x)
        keep(folder, codes, kind.decode(codes, info))


def openai_read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    state = torch.load(folder / "autoencoder.pt", weights_only=True)
    sae = import_module("sparse_autoencoder.model").Autoencoder.from_state_dict(state)
    codes, info = sae.encode(rows())
    return codes, sae.decode(codes, info)


def gemma_scope_read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Read as SAELens' converters for Gemma Scope 1 and 2 do, without their downloads."""
    saes, t = import_module("sae_lens.saes"), import_module("sae_lens.saes.transcoder")
    x = rows()
    if (folder / "params.npz").exists():
        with np.load(folder / "params.npz") as arrays:
            state = {name: torch.tensor(arrays[name]) for name in arrays}
        d_in, many = state["W_enc"].shape
        config = saes.JumpReLUSAEConfig(d_in, many, apply_b_dec_to_input=False)
        sae = saes.JumpReLUSAE(config)
    else:
        raw = load_file(folder / "params.safetensors")
        names = {"w_enc": "W_enc", "w_dec": "W_dec"}
        skip = raw.pop("affine_skip_connection", None)
        state = {names.get(name, name): tensor for name, tensor in raw.items()}
        d_in, many = state["W_enc"].shape
        size = {"d_in": d_in, "d_sae": many, "d_out": state["W_dec"].shape[1]}
        size["apply_b_dec_to_input"] = False
        if skip is None:
            sae = t.JumpReLUTranscoder(t.JumpReLUTranscoderConfig(**size))
        else:
            state["W_skip"] = skip.T.contiguous()
            sae = t.JumpReLUSkipTranscoder(t.JumpReLUSkipTranscoderConfig(**size))
    sae.load_state_dict(state)
    return sae.encode(x), sae(x)


def main() -> None:
    library, task, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.manual_seed(0)
    if task == "write":
        globals()[f"{library}_write"](folder)
        return
    for each in sorted(item for item in folder.iterdir() if item.is_dir()):
        with torch.no_grad():
            keep(each, *globals()[f"{library}_read"](each))


if __name__ == "__main__":
    main()
