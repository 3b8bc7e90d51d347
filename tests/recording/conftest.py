import pytest

from probe_sae.host import Host, load_host


@pytest.fixture(scope="session")
def code_lm() -> Host:
    return load_host("bundled:code-lm", device="cpu")


@pytest.fixture(scope="session")
def digits_vit() -> Host:
    return load_host("bundled:digits-vit", device="cpu")
