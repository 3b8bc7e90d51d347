import tomllib

import pytest

from probe_sae.shipped import shipped

FILES = ["hooks/gpt2.toml", "datasets/stdlib.toml", "reports/index.html"]


@pytest.mark.parametrize("path", FILES)
def test_every_shipped_file_can_be_read(path: str) -> None:
    assert shipped(path).read_text()


def test_a_hook_map_is_toml() -> None:
    assert tomllib.loads(shipped("hooks/gpt2.toml").read_text())["family"] == "gpt2"


def test_an_unknown_file_names_its_neighbours() -> None:
    with pytest.raises(FileNotFoundError, match=r"hooks/ holds .*gpt2\.toml"):
        shipped("hooks/gpt3.toml")
