"""The model card of digits-vit: a template for the figures that `make.py` measured."""

from dataclasses import asdict, dataclass
from pathlib import Path

CARD = """---
library_name: transformers
pipeline_tag: image-classification
license: mit
tags: [digits, interpretability]
---
# digits-vit: a small vision transformer of handwritten digits

A ViT of {parameters:,} parameters that names the 8x8 digits which come with scikit-learn. Every
pixel is a patch, so that a feature's heat map over 64 patches is a picture as sharp as the digit.
It ships inside probe_sae, so that a sparse autoencoder has something real to look into on any
machine, offline.

```python
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = "probe_sae/host/bundled/digits-vit"
processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModelForImageClassification.from_pretrained(folder, dtype="float32")

pixels = np.round(load_digits().images[0] * 255 / 16).astype(np.uint8)  # [8, 8], 0 to 255
inputs = processor(Image.fromarray(pixels), return_tensors="pt")  # [1, 1, 8, 8], -1 to 1
print(model.config.id2label[model(**inputs).logits.argmax().item()])  # 0
```

The processor takes PIL pictures of mode `L`, and arrays or tensors with a channel axis
(`[1, 8, 8]`, `[8, 8, 1]`, `[images, 1, 8, 8]`); it refuses a bare `[8, 8]` array.

## What it is made of
`ViTForImageClassification`: 4 layers, hidden size 64, 4 heads, patches of 1x1, so 64 of them and
the class token; one input channel. Weights in float16, trained in float32.

## Data and licence
scikit-learn's `load_digits`: 1,797 grey images of 8x8, values 0 to 16, here
round(value * 255 / 16). They are the test set of "Optical Recognition of Handwritten Digits" by
E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, https://doi.org/10.24432/C50P49), under
CC BY 4.0. The weights are under probe_sae's own MIT licence.

**Split**: an image is held out when its index is a multiple of 5 (0, 5, 10, ...):
{training_images:,} images to train, {held_out_images} held out. The set does not say who wrote
what, so that one hand may be on both sides.

## Training
{steps} steps of 64 images, {minutes:.1f} minutes on one core of a busy machine, seed {seed}, torch
{torch}. Each image is turned by up to 12 degrees, scaled by up to 10 % and moved by up to 0.8
pixel. Muon for the matrices inside the layers, AdamW for the rest (both 2e-3 at the peak), label
smoothing 0.05, no dropout. The position embeddings begin as waves over the picture and are learned
from there. The last step's weights were kept. Settings were tried on the held-out images a few
times: the figure below is a little kind. `make.py` beside this card made it.

## Figures
Of the {held_out_images} held-out images, the folder as saved, in float32:

| model | named rightly |
|---|---|
| **digits-vit** | **{accuracy:.1%}** ({wrong} wrong) |
{rivals}

Cross-entropy {loss:.3f} nats: the label smoothing keeps it from being surer. Of the training images
{training_accuracy:.1%} are named rightly.

## Limits
It knows centred 8x8 digits and nothing else, and names any image with a digit. The processor
shrinks larger pictures to 8x8; they must be light strokes on black.
"""


@dataclass(frozen=True)
class Figures:
    """What the card says of a run and of the folder that it saved."""

    seed: int
    steps: int
    minutes: float
    torch: str
    parameters: int
    training_images: int
    held_out_images: int
    accuracy: float
    """Share of the held-out images named rightly, by the folder as saved, in float32."""
    training_accuracy: float
    loss: float
    """Mean cross-entropy over the held-out images, in nats."""
    baselines: dict[str, float]
    """Accuracy on the same held-out images of classifiers of raw pixels, by name."""


def write_card(out: Path, figures: Figures) -> None:
    """Write README.md into the folder."""
    rivals = [
        f"| {name}, of raw pixels | {share:.1%} |" for name, share in figures.baselines.items()
    ]
    text = CARD.format(
        **asdict(figures),
        wrong=round((1 - figures.accuracy) * figures.held_out_images),
        rivals="\n".join(rivals),
    )
    (out / "README.md").write_text(text, encoding="utf-8")
