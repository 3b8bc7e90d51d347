"""Another library's pages of the same features; `report_peers.py` starts this in its environment.

`python report_contestants.py NAME FOLDER`: reads the host, the tokens and the dictionary that lie
in FOLDER, writes `NAME.html` beside them, prints JSON.
"""

import json
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

HOOK, LAYER = "blocks.1.hook_resid_post", 1


def hooked(folder: Path) -> Any:
    """Return the host as TransformerLens has it: a GPT-2 with its weights as they are."""
    lens = import_module("transformer_lens")
    convert = import_module("transformer_lens.pretrained.weight_conversions")
    theirs = GPT2LMHeadModel.from_pretrained(folder / "host", dtype=torch.float32)
    gpt2 = theirs.config
    config = lens.HookedTransformerConfig(
        n_layers=gpt2.n_layer, d_model=gpt2.n_embd, n_ctx=gpt2.n_positions, n_heads=gpt2.n_head,
        d_head=gpt2.n_embd // gpt2.n_head, d_vocab=gpt2.vocab_size, act_fn="gelu_new",
        normalization_type="LN", eps=1e-5, model_name="code-lm", device="cpu",
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "host")
    model = import_module("sae_lens").HookedSAETransformer(config, tokenizer=tokenizer)
    model.load_state_dict(convert.convert_gpt2_weights(theirs, config), strict=False)
    return model.eval()


def dictionary(weights: dict[str, torch.Tensor]) -> Any:
    """Return the dictionary as SAELens has it: ReLU, in raw units."""
    lens = import_module("sae_lens")
    features, width = weights["W_dec"].shape
    if version("sae-lens") < "6":
        config = lens.SAEConfig(
            architecture="standard", d_in=width, d_sae=features, activation_fn_str="relu",
            apply_b_dec_to_input=False, finetuning_scaling_factor=False, context_size=128,
            model_name="code-lm", hook_name=HOOK, hook_layer=LAYER, hook_head_index=None,
            prepend_bos=False, dataset_path="", dataset_trust_remote_code=False,
            normalize_activations="none", dtype="float32", device="cpu",
            sae_lens_training_version="",
        )  # fmt: skip
        sae = lens.SAE(config)
    else:
        found = import_module("sae_lens.saes.sae").SAEMetadata(hook_name=HOOK, hook_layer=LAYER)
        sae = lens.StandardSAE(lens.StandardSAEConfig(
            d_in=width, d_sae=features, dtype="float32", device="cpu", apply_b_dec_to_input=False,
            metadata=found,
        ))  # fmt: skip
    sae.load_state_dict({name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    return sae


def sae_vis(model: Any, sae: Any, tokens: torch.Tensor, out: Path) -> None:
    """Write its feature-centric page with its default layout."""
    data = import_module("sae_vis.data_storing_fns")
    config = import_module("sae_vis.data_config_classes").SaeVisConfig
    # Position 0 holds the start of a context, which is in no store.
    settings = config(features=list(range(len(sae.W_dec))), seqpos_slice=(1, None, None))
    found = data.SaeVisData.create(sae=sae, model=model, tokens=tokens, cfg=settings)
    found.save_feature_centric_vis(str(out))


def sae_dashboard(model: Any, sae: Any, tokens: torch.Tensor, out: Path) -> None:
    """Write its feature-centric page with its default layout."""
    runner = import_module("sae_dashboard.sae_vis_runner").SaeVisRunner
    config = import_module("sae_dashboard.sae_vis_data").SaeVisConfig
    write = import_module("sae_dashboard.data_writing_fns").save_feature_centric_vis
    settings = config(hook_point=HOOK, features=list(range(len(sae.W_dec))), ignore_positions=[0])
    found = runner(settings).run(encoder=sae, model=model, tokens=tokens)
    found.model = model
    write(found, out)


def main() -> None:
    """Compare activations, write the page, print what it took."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    given = load_file(folder / "given.safetensors")
    model, sae = hooked(folder), dictionary(given)
    with torch.no_grad():
        few = given["tokens"][:8]
        _, cache = model.run_with_cache(few, names_filter=HOOK)
        codes = sae.encode(cache[HOOK])
        error = float((codes - given["codes"]).abs().max() / given["codes"].abs().max())
    out = folder / f"{name}.html"
    began = time.perf_counter(), time.process_time()
    {"sae-vis": sae_vis, "sae-dashboard": sae_dashboard}[name](model, sae, given["tokens"], out)
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps({
        "version": version(name), "codes_differ_by": error,
        "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
