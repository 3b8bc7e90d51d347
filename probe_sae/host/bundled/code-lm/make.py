"""Make the bundled host `code-lm`: a small GPT-2 over the source of Python's standard library.

    python probe_sae/host/bundled/code-lm/make.py

It needs no network: the text is the running Python's own `Lib`, as `datasets/stdlib.toml` lists it.
It costs `--minutes` on two CPU cores, and a few more for the figures of the card.
"""

import argparse
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from card import Training, write_card
from corpus import library_folder, read_corpus
from measure import Tokens, encode, measure, stream
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, pad
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
CONTEXT, BATCH = 256, 16
VOCABULARY, D_MODEL, LAYERS, HEADS = 4096, 224, 4, 4
# Muon for the matrices inside the blocks: on one batch of 8 contexts it reaches a loss of 0.2 nats
# in 20 steps, where AdamW (3e-3) for all stands at 5.5.
MUON_LR, ADAM_LR = 4e-3, 3e-3
# A word takes the one sign before it (`.join`, `_name`, `(self`); signs take the line's end and
# the next line's indentation. Of held-out text a token then covers 3.84 bytes; with GPT-2's own
# pattern and the same 4,096 tokens it covers 3.54.
WORDS = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+(?:\n+(?: +(?!\S))?)?|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Settings:
    """What a run is made of."""

    out: Path
    """Folder to write."""
    seed: int
    """Of the first weights and of the order of the text."""
    minutes: float
    """Wall time of the training; ignored where `steps` is not 0."""
    steps: int
    """Number of steps, for a run that can be repeated exactly; 0 lets the clock decide."""
    compiled: bool
    """Compile the loss: a tenth faster, and needs a C++ compiler."""
    card_only: bool
    """Leave the model as it is; measure it again and write the card."""


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE: any text comes back from its tokens unchanged."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def batches(tokens: Tokens, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, targets), [BATCH, CONTEXT], for ever: an epoch has each token as target once.

    A context is the end-of-text token and CONTEXT - 1 tokens that follow one another; each epoch
    cuts the text at other places.
    """
    while True:
        cut = tokens[int(random.integers(CONTEXT)) :]
        contexts = cut[: len(cut) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
        order = random.permutation(len(contexts))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            targets = torch.from_numpy(contexts[order[start : start + BATCH]])
            yield pad(targets[:, :-1], (1, 0)), targets


def build(seed: int) -> GPT2LMHeadModel:
    """Return the untrained model; the global random state stays as it was."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=D_MODEL,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases."""
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(model: GPT2LMHeadModel, library: Tokens, tests: Tokens, settings: Settings) -> Training:
    """Train `model` in place, in bfloat16 autocast.

    The first half of the run reads library and tests alike, the second the library alone. The
    steps grow over the first 2 % and then shrink in a straight line to zero.
    """
    random = np.random.default_rng(settings.seed)
    everything = batches(np.concatenate([library, tests]), random)
    of_library = batches(library, random)
    optimize = optimizers(model)
    peaks = [MUON_LR, ADAM_LR]
    loss_of: Callable[..., Tensor] = torch.compile(loss) if settings.compiled else loss
    started, step, minutes, progress = time.monotonic(), 0, 0.0, 0.0
    while progress < 1:
        for optimizer, peak in zip(optimize, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(progress / 0.02 + 1e-3, 1 - progress)
        value = loss_of(model, *next(everything if progress < 0.5 else of_library))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimize:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        minutes = (time.monotonic() - started) / 60
        progress = step / settings.steps if settings.steps else minutes / settings.minutes
        if step % 20 == 0:
            print(f"step {step} ({progress:.1%}) loss {value.item():.3f} nats", flush=True)
    return Training(
        seed=settings.seed,
        steps=step,
        minutes=minutes,
        batch=BATCH,
        muon_lr=MUON_LR,
        adam_lr=ADAM_LR,
        python=platform.python_version(),
        torch=torch.__version__.partition("+")[0],
    )


def loss(model: GPT2LMHeadModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean negative log likelihood of `targets`, in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.transformer(inputs, use_cache=False).last_hidden_state
        logits = linear(hidden, model.lm_head.weight)
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def main() -> None:
    """Make the folder: tokenizer, model, card."""
    settings = _settings()
    torch.set_num_threads(2)
    corpus = read_corpus()
    if not settings.card_only:
        tokenizer = train_tokenizer(corpus.library)
        tokenizer.save_pretrained(settings.out)
        library, tests, _ = (encode(tokenizer, texts) for texts in corpus[:3])
        model = build(settings.seed)
        training = train(model, stream(library), stream(tests), settings)
        model.half().save_pretrained(settings.out)
        (settings.out / "training.json").write_text(json.dumps(asdict(training), indent=1) + "\n")
    licence = library_folder() / "LICENSE.txt"
    if licence.exists():
        shutil.copyfile(licence, settings.out / "PYTHON-LICENSE.txt")
    training = Training(**json.loads((settings.out / "training.json").read_text()))
    model = GPT2LMHeadModel.from_pretrained(settings.out, dtype=torch.float32).eval()
    figures = measure(model, AutoTokenizer.from_pretrained(settings.out), corpus)
    write_card(settings.out, training, figures, corpus.held_out_modules)
    print(figures)


def _settings() -> Settings:
    parser = argparse.ArgumentParser(description="Make the bundled host code-lm.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.5, help="wall time of the training")
    parser.add_argument("--steps", type=int, default=0, help="steps; 0: as many as --minutes allow")
    parser.add_argument("--compiled", action="store_true", help="a tenth faster; needs a compiler")
    parser.add_argument("--card-only", action="store_true", help="keep the model, measure again")
    return Settings(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
