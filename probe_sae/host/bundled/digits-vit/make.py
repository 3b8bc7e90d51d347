"""Make the bundled host `digits-vit`: a small vision transformer over scikit-learn's 8x8 digits.

    python probe_sae/host/bundled/digits-vit/make.py

It needs no network: the images come with scikit-learn. It costs a few minutes on one CPU core.
The same seed and machine give the same weights.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from card import Figures, write_card
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

MEAN, STD = 0.5, 0.5
BATCH, PEAK_LR = 64, 2e-3


@dataclass(frozen=True)
class Settings:
    """What a run is made of."""

    out: Path
    """Folder to write."""
    seed: int
    """Of the first weights, of the order of the images and of their distortions."""
    steps: int
    """Number of steps of 64 images; 22 are an epoch."""


class Digits(NamedTuple):
    """Images, uint8 [images, 8, 8] from 0 to 255, and their labels [images]."""

    images: Tensor
    labels: Tensor


def read_digits() -> tuple[Digits, Digits]:
    """Return the training images and the held-out ones: those whose index is a multiple of 5."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.round(pixels * 255 / 16).astype(np.uint8)).reshape(-1, 8, 8)
    held_out = torch.arange(len(images)) % 5 == 0
    targets = torch.from_numpy(labels.astype(np.int64))
    training = Digits(images[~held_out], targets[~held_out])
    return training, Digits(images[held_out], targets[held_out])


def pixel_values(images: Tensor) -> Tensor:
    """Return what the saved image processor makes of the images: [images, 1, 8, 8], -1 to 1."""
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1)


def build(seed: int) -> ViTForImageClassification:
    """Return the untrained model; the global random state stays as it was."""
    names = [str(digit) for digit in range(10)]
    config = ViTConfig(
        image_size=8,
        patch_size=1,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.0,
        initializer_range=0.1,  # near 1 / sqrt(64); at 0.02 the first 60 steps learn nothing
        attention_probs_dropout_prob=0.0,
        encoder_stride=1,
        id2label=dict(enumerate(names)),
        label2id={name: digit for digit, name in enumerate(names)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViTForImageClassification(config)
    with torch.no_grad():
        model.vit.embeddings.position_embeddings[0, 1:] = waves(config.hidden_size)
    return model


def waves(width: int) -> Tensor:
    """Return the 64 pixels' first position vectors, [64, width]: neighbours are alike.

    A quarter each: sines and cosines of the row, sines and cosines of the column, from half a wave
    over the picture to one of two pixels. Without them the model must learn from 1,437 images that
    pixels lie on a grid: random positions (and dropout 0.1) named 88.9 % of the held-out images
    after 800 steps, these (and none) 96.7 % after 600.
    """
    frequencies = torch.pi * torch.logspace(-3, 0, width // 4, base=2)
    angles = torch.arange(8)[:, None] * frequencies
    along = torch.cat([angles.sin(), angles.cos()], 1)  # [8, width / 2]
    row, column = along[:, None].expand(8, 8, -1), along.expand(8, 8, -1)
    return torch.cat([row, column], 2).reshape(64, width) * 0.5


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, each turned by up to 12 degrees, scaled by up to 10 %, moved a little.

    A move is up to 0.8 pixel each way.

    Args:
        images: pixel values, [images, 1, 8, 8]; -1 is empty paper.
        generator: draws each image's distortion.
    """
    turn, scale, right, down = torch.rand(4, len(images), generator=generator) * 2 - 1
    turn, scale = turn * math.radians(12), 1 + scale * 0.1
    shift = 0.8 * 2 / 8  # the grid runs from -1 to 1 over 8 pixels
    cos, sin = turn.cos() * scale, turn.sin() * scale
    rows = [torch.stack([cos, -sin, right * shift], 1), torch.stack([sin, cos, down * shift], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images + 1, grid, align_corners=False) - 1


def optimizers(model: ViTForImageClassification) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, AdamW for all else."""
    matrices = [p for p in model.vit.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, weight_decay=0.01, fused=True),
    ]


def train(model: ViTForImageClassification, digits: Digits, settings: Settings) -> None:
    """Train `model` in place; the steps grow over the first 5 % and shrink along a cosine."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimize = optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK_LR, settings.steps, pct_start=0.05, cycle_momentum=False
        )
        for optimizer in optimize
    ]
    values = pixel_values(digits.images)
    model.train()
    order = torch.empty(0, dtype=torch.int64)
    for step in range(settings.steps):
        if len(order) < BATCH:
            order = torch.randperm(len(values), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        logits = model(distort(values[chosen], generator)).logits
        loss = cross_entropy(logits, digits.labels[chosen], label_smoothing=0.05)
        loss.backward()
        for optimizer, schedule in zip(optimize, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f}", flush=True)
    model.eval()


def save(model: ViTForImageClassification, out: Path) -> None:
    """Write the weights in float16, the configuration and the image processor."""
    model.half().save_pretrained(out)
    ViTImageProcessor(
        size={"height": 8, "width": 8},
        image_mean=[MEAN],
        image_std=[STD],
        do_convert_rgb=False,
    ).save_pretrained(out)


@torch.no_grad()
def logits_of(folder: Path, images: Tensor) -> Tensor:
    """Return the logits [images, 10] of the folder as a user loads it, in float32."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    pictures = [Image.fromarray(image) for image in images.numpy()]
    return model.eval()(**processor(pictures, return_tensors="pt")).logits


def baselines(training: Digits, held_out: Digits) -> dict[str, float]:
    """Return the held-out accuracy of three classifiers of raw pixels."""
    classifiers = {
        "logistic regression": LogisticRegression(max_iter=5000),
        "3 nearest neighbours": KNeighborsClassifier(3),
        "support vectors, RBF kernel": SVC(),
    }
    x, y = training.images.flatten(1).numpy() / 255, training.labels.numpy()
    x_held_out, y_held_out = held_out.images.flatten(1).numpy() / 255, held_out.labels.numpy()
    return {
        name: float(classifier.fit(x, y).score(x_held_out, y_held_out))
        for name, classifier in classifiers.items()
    }


def measure(settings: Settings, training: Digits, held_out: Digits, seconds: float) -> Figures:
    """Return the figures of the saved folder."""
    logits = logits_of(settings.out, held_out.images)
    seen = logits_of(settings.out, training.images)
    return Figures(
        seed=settings.seed,
        steps=settings.steps,
        minutes=seconds / 60,
        torch=torch.__version__.partition("+")[0],
        parameters=sum(p.numel() for p in build(0).parameters()),
        training_images=len(training.labels),
        held_out_images=len(held_out.labels),
        accuracy=(logits.argmax(1) == held_out.labels).double().mean().item(),
        training_accuracy=(seen.argmax(1) == training.labels).double().mean().item(),
        loss=cross_entropy(logits, held_out.labels).item(),
        baselines=baselines(training, held_out),
    )


def main() -> None:
    """Make the folder: model, image processor, card."""
    parser = argparse.ArgumentParser(description="Make the bundled host digits-vit.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1200, help="steps of 64 images")
    settings = Settings(**vars(parser.parse_args()))
    # A second thread gains little on matrices this small, and two wait for each other.
    torch.set_num_threads(1)
    training, held_out = read_digits()
    model = build(settings.seed)
    started = time.monotonic()
    train(model, training, settings)
    seconds = time.monotonic() - started
    save(model, settings.out)
    figures = measure(settings, training, held_out, seconds)
    write_card(settings.out, figures)
    print(figures)


if __name__ == "__main__":
    main()
