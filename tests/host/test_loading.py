"""Hosts load by name, or say why not."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from probe_sae.errors import EnvironmentProblem, HostNotFound
from probe_sae.host import bundled_hosts, libraries, load_host


@pytest.mark.parametrize("name", bundled_hosts())
def test_bundled_hosts_load_by_the_same_path_as_any_folder(name: str) -> None:
    host = load_host(name)
    folder = Path(load_host.__code__.co_filename).parent / "bundled" / name.partition(":")[2]
    same = load_host(folder)

    assert host.digest == same.digest
    assert host.hook_map is not None
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8e6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bundled:code-ml", r"there are bundled:code-lm, bundled:digits-vit\.$"),
        ("torchvision:resnet19", "Near it: resnet1"),
        ("torchvision:resnet18@nowhere.safetensors", "no weights file"),
        ("python:nowhere:make", "No module named 'nowhere'"),
        ("python:json:loads_", "expected python:module:factory|has no attribute"),
    ],
)
def test_a_host_that_is_not_there_says_so(name: str, message: str) -> None:
    with pytest.raises(HostNotFound, match=message):
        load_host(name)


def test_a_folder_without_a_model_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))

    with pytest.raises(HostNotFound, match=r"model\.safetensors"):
        load_host(tmp_path)


def test_a_torchvision_model_offers_its_sites_and_its_modules() -> None:
    host = load_host("torchvision:squeezenet1_1@random")
    assert host.digest == load_host("torchvision:squeezenet1_1@random").digest

    assert host.sites["blocks.0.out"].path == "features.3"
    assert [site.path for site in host.find_sites("path:features.3@out")] == ["features.3"]
    assert host({"x": torch.zeros(1, 3, 64, 64)}).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "size"), [("inception_v3", 299), ("squeezenet1_1", 224), ("efficientnet_b1", 240)]
)
def test_images_are_preprocessed_as_the_weights_want_them(name: str, size: int) -> None:
    host = load_host(f"torchvision:{name}@random")

    inputs = host.image_inputs([np.zeros((300, 400, 3), np.uint8)] * 2)

    assert {key: tuple(t.shape) for key, t in inputs.items()} == {"x": (2, 3, size, size)}


def test_a_factory_of_the_users_own_is_found_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Linear(2, 3)\n\n"
        "def broken():\n    raise ZeroDivisionError('oh')\n"
    )
    monkeypatch.chdir(tmp_path)

    assert list(load_host("python:my_nets:make").sites) == []
    with pytest.raises(HostNotFound, match="ZeroDivisionError: oh"):
        load_host("python:my_nets:broken")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """Transformers would fill them in at random, with a warning at most."""
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=9, n_positions=8)
    )
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["transformer.h.1.mlp.c_fc.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(HostNotFound, match=r"no weights for transformer\.h\.1\.mlp\.c_fc\.weight"):
        load_host(tmp_path, tokenizer=object())


@pytest.mark.parametrize("damage", ["cut", "config"])
def test_a_damaged_folder_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    model = transformers.GPT2Model(
        transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=8)
    )
    model.save_pretrained(tmp_path)
    file = tmp_path / ("model.safetensors" if damage == "cut" else "config.json")
    file.write_bytes(file.read_bytes()[:40])

    with pytest.raises(HostNotFound, match="no host"):
        load_host(tmp_path, tokenizer=object())


def test_a_pickled_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")

    with pytest.raises(HostNotFound, match="nothing in it was run"):
        load_host(f"torchvision:squeezenet1_1@{tmp_path / 'evil.pth'}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["plain", "nested", "parallel"])
def test_torchvision_weights_load_in_the_forms_that_people_save(tmp_path: Path, form: str) -> None:
    model = load_host("torchvision:squeezenet1_1@random").model
    state: dict[str, Any] = dict(model.state_dict())
    if form == "nested":
        state = {"state_dict": state, "epoch": 3}
    elif form == "parallel":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "weights.pth")

    host = load_host(f"torchvision:squeezenet1_1@{tmp_path / 'weights.pth'}")

    assert torch.equal(
        host.model.state_dict()["features.0.bias"], model.state_dict()["features.0.bias"]
    )


def test_the_class_that_was_saved_is_the_class_that_is_loaded(tmp_path: Path) -> None:
    config = transformers.T5Config(
        d_model=16, num_layers=2, num_heads=2, d_kv=8, d_ff=24, vocab_size=30
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)

    host = load_host(tmp_path, tokenizer=object())

    assert type(host.model).__name__ == "T5ForConditionalGeneration"
    assert {"encoder.blocks.1.resid_post", "decoder.blocks.1.cross_out"} <= set(host.sites)


def test_a_module_of_the_users_own_keeps_its_gradients() -> None:
    module = nn.Linear(2, 2)

    load_host(module)

    assert module.weight.requires_grad


def test_any_module_is_a_host() -> None:
    host = load_host(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))

    assert list(host.sites) == ["path:0@in", "path:0@out", "path:1@in", "path:1@out"]


def test_a_torchvision_built_for_another_torch_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)

    with pytest.raises(EnvironmentProblem, match="pip install --upgrade torch torchvision"):
        libraries.transformers()


def test_a_folder_without_a_tokenizers_files_has_no_tokenizer_made_of_nothing(
    tmp_path: Path,
) -> None:
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)

    with pytest.raises(HostNotFound, match=r"no readable tokenizer.*load_host\(…, tokenizer=…\)"):
        load_host(str(tmp_path))
