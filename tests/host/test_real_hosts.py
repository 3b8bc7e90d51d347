"""The proofs hold on real, trained models and real inputs, not only on tiny random ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from probe_sae.host import Host, Proof, check, load_host, tap
from probe_sae.recording import CaptureSettings, batches, capture, load_dataset


def failures(proof: Proof) -> list[str]:
    return [f"{finding.about}: {finding.detail}" for finding in proof.findings if not finding.holds]


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize(
    ("name", "dataset"), [("bundled:code-lm", "stdlib"), ("bundled:digits-vit", "digits")]
)
def test_the_bundled_hosts_are_proven_on_real_inputs(
    name: str, dataset: str, attention: str | None
) -> None:
    host = load_host(name, device="cpu", attention=attention)
    batch = next(batches(host, load_dataset(dataset), max_length=48, batch_size=4))

    proof = check(host, batch.inputs)

    assert failures(proof) == []
    assert [f.error for f in proof.findings if " == " in f.about] == [0.0] * 5


def test_the_pretrained_story_model_is_proven_on_real_stories(data_folder: Path) -> None:
    host = load_host(data_folder / "lm" / "stories260K_hf", device="cpu")
    stories = load_dataset(data_folder / "text" / "tinystories_600.jsonl")
    batch = next(batches(host, stories, max_length=64, batch_size=4))

    assert failures(check(host, batch.inputs)) == []


@pytest.fixture(scope="module")
def squeezenet(data_folder: Path) -> Host:
    weights = data_folder / "image_models" / "squeezenet1_1_imagenet_torchvision.safetensors"
    return load_host(f"torchvision:squeezenet1_1@{weights}", device="cpu")


def photographs(folder: Path, count: int) -> tuple[list[np.ndarray], list[int]]:
    labels: dict[str, int] = json.loads((folder / "images" / "labels.json").read_text())
    chosen = dict(list(labels.items())[:count])
    files = [folder / "images" / name for name in chosen]
    pixels = [np.array(Image.open(file).convert("RGB")) for file in files]
    return pixels, list(chosen.values())


def test_the_pretrained_squeezenet_is_proven_on_real_photographs(
    squeezenet: Host, data_folder: Path
) -> None:
    pixels, _ = photographs(data_folder, 2)

    assert failures(check(squeezenet, squeezenet.image_inputs(pixels))) == []


def test_the_pretrained_squeezenet_sees_the_photographs_as_it_was_trained_to(
    squeezenet: Host, data_folder: Path
) -> None:
    """Top-1 is 65 % on 100 such photographs; wrong preprocessing costs far more than this."""
    pixels, labels = photographs(data_folder, 40)

    logits: Tensor = squeezenet(squeezenet.image_inputs(pixels))

    assert (logits.argmax(1) == torch.tensor(labels)).float().mean() >= 0.5


def test_rows_of_real_photographs_equal_a_plain_hook(
    squeezenet: Host, data_folder: Path, tmp_path: Path
) -> None:
    recipe = load_dataset(data_folder / "images")
    settings = CaptureSettings(rows=1000, batch_size=4, dtype="float32")
    store = capture(squeezenet, recipe, "blocks.4.out", tmp_path / "store", settings)
    seen: list[Tensor] = []
    module = squeezenet.model.get_submodule(squeezenet.sites["blocks.4.out"].path)
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    batch = next(batches(squeezenet, recipe, batch_size=4))
    squeezenet(batch.inputs)
    handle.remove()

    expected = seen[0].permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.equal(store.read("blocks.4.out", 0, len(expected)), expected)
    with tap(squeezenet, "blocks.4.out") as tapped:
        squeezenet(batch.inputs)
    assert torch.equal(tapped["blocks.4.out"], seen[0])
