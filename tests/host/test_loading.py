"""Hosts load by name, or say why not."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
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
        ("bundled:code-ml", "Near it: bundled:code-lm"),
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


def test_a_torchvision_model_offers_its_modules() -> None:
    host = load_host("torchvision:squeezenet1_1@random")

    assert "path:features.3@out" in host.sites
    with torch.no_grad():
        assert host({"x": torch.zeros(1, 3, 64, 64)}).shape == (1, 1000)


def test_any_module_is_a_host() -> None:
    host = load_host(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))

    assert list(host.sites) == ["path:0@out", "path:1@out"]


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
