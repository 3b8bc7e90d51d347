from pathlib import Path

import pytest

from probe_sae.host import Host, load_host
from probe_sae.recording import CaptureSettings, Recipe, capture, load_dataset
from probe_sae.store import Store

SITE = "blocks.1.resid_post"


@pytest.fixture(scope="session")
def code_lm() -> Host:
    return load_host("bundled:code-lm", device="cpu")


@pytest.fixture(scope="session")
def stdlib() -> Recipe:
    return load_dataset("stdlib")


@pytest.fixture(scope="session")
def store(code_lm: Host, stdlib: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("evaluation") / "store"
    settings = CaptureSettings(rows=12_000, max_length=64, dtype="float32")
    return capture(code_lm, stdlib, SITE, folder, settings)
