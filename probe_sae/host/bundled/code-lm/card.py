"""The model card of code-lm: a template for the figures that `make.py` measured."""

from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill

from measure import PROMPT, Figures
from transformers import GPT2Config

CARD = """---
library_name: transformers
pipeline_tag: text-generation
license: mit
tags: [python, interpretability]
---
# code-lm: a small language model of Python source

A GPT-2 of {parameters:,} parameters that has read the source of Python's standard library. It
ships inside probe_sae, so that a sparse autoencoder has something real to look into on any
machine, offline. It is a specimen, not a programming assistant.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "probe_sae/host/bundled/code-lm"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
```

## What it is made of
- **Model**: `GPT2LMHeadModel`, {n_layer} blocks, d_model {n_embd}, {n_head} heads, context
  {n_positions}, tied embeddings, no dropout. Weights in float16; trained in float32 under
  bfloat16 autocast.
- **Tokens**: byte-level BPE, {vocab_size:,} tokens, {bytes_per_token:.2f} bytes of held-out text a
  token; any text comes back unchanged. One token may hold the last signs of a line, its end and
  the next line's indentation (`):\\n       `). `<|endoftext|>` (0) is start, end and padding.
- **Contexts**: every training context began with `<|endoftext|>`, whether or not a file began
  there. Put it first: the tokenizer does not add it by itself.

## Data and licence
The `.py` files of CPython {python} that probe_sae's recipe `stdlib` lists, {mb_library:.1f} MB,
and {mb_tests:.1f} MB of `Lib/test` for training only. Tables of characters and help texts
(`encodings`, `pydoc_data`) are in neither. The text is © Python Software Foundation, under the
PSF License Version 2 (`PYTHON-LICENSE.txt`), and what the model recites of it stays so. The
weights are under probe_sae's own MIT licence.

**Split**, by top-level module (`asyncio/` is one, `argparse.py` is one): a module is held out when
the sha256 of its name, as a number, is a multiple of 10. Held out, {mb_held_out:.2f} MB:
{modules}.
The tokenizer and the model saw neither these nor their tests (`test_NAME*`); tests under another
name, such as `test_minidom` of `xml`, were read.

## Training
{steps:,} steps of {batch} contexts of {n_positions} tokens: {minutes:.0f} minutes on two shared CPU
cores, seed {seed}, torch {torch}. Muon for the matrices inside the blocks (peak {muon_lr}), AdamW
for the rest (peak {adam_lr}); the steps grow over the first 2 % and shrink in a straight line to
zero. The first half of the run read library and tests alike, the second the library alone:
about {epochs:.1f} passes over the training modules. The clock set the number of steps and their
sizes, so that `make.py --steps {steps}` gives a model like it, not the same bits.

## Figures
Bits per byte of the held-out modules; lower is better.

| model | bits per byte |
|---|---|
| **code-lm** | **{model:.3f}** |
| xz after the training text, tuned to text (lc 4, pb 0) | {xz_for_text:.3f} |
| xz after the training text | {xz:.3f} |
| trigrams of the same tokens | {trigram:.3f} |
| bigrams of the same tokens | {bigram:.3f} |

- *code-lm*: the folder as saved, in float32. A file is read in windows of {n_positions} tokens,
  half a window apart, each led by `<|endoftext|>`; the first counts whole, a later one for its
  second half, so that every byte counts once.
- *n-grams*: interpolated Kneser-Ney over the same training tokens, tests included. The discount is
  the best of ten for the held-out text itself, which favours them.
- *xz*: by how much the file grows when the held-out text follows the training text, preset 9
  extreme, with a dictionary that holds both. It may copy from all that went before, held-out
  files too; the model sees {n_positions} tokens.

## A sample
The first one drawn (temperature 0.7, seed 0), after the prompt `{prompt!r}`:

````python
{sample}
````

## Limits
It knows the manner of one code base: names, indentation, docstrings, calls. It does not reason,
its code seldom runs, and it looks back {n_positions} tokens, about {window_bytes:.0f} bytes. It
was stopped by the clock, long before it had learned all that its size can hold. Most of the recipe
`stdlib` is its training text: for text that it has not seen, use the held-out modules above.
"""


@dataclass(frozen=True)
class Training:
    """What a run turned out to be; `training.json` keeps it."""

    seed: int
    steps: int
    minutes: float
    batch: int
    muon_lr: float
    adam_lr: float
    python: str
    torch: str


def write_card(out: Path, training: Training, figures: Figures, modules: list[str]) -> None:
    """Write README.md into the folder; `modules` are those held out."""
    config = GPT2Config.from_pretrained(out)
    bytes_read = training.steps * training.batch * config.n_positions * figures.bytes_per_token
    share = figures.bytes_library / (figures.bytes_library + figures.bytes_tests)
    text = CARD.format(
        **asdict(training),
        **asdict(figures),
        **{name: getattr(config, name) for name in _SHAPE},
        mb_library=(figures.bytes_library + figures.bytes_held_out) / 1e6,
        mb_tests=figures.bytes_tests / 1e6,
        mb_held_out=figures.bytes_held_out / 1e6,
        modules=fill(", ".join(f"`{name}`" for name in modules), 99),
        epochs=bytes_read * (1 + share) / 2 / figures.bytes_library,
        window_bytes=round(config.n_positions * figures.bytes_per_token, -2),
        prompt=PROMPT,
    )
    (out / "README.md").write_text(text, encoding="utf-8")


_SHAPE = ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")
