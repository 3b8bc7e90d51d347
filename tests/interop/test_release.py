"""What a release says by names: only its own count, and what they decide here is said."""

import shutil
from pathlib import Path

import pytest
import torch

import probe_sae as ps
from probe_sae.errors import FormatError
from probe_sae.sae import Plain, PlainSAE

from . import references as r

D, MANY = r.D, r.MANY
CACHE = "models--{}/snapshots/0a1b2c"
RES, TRANSCODERS = "gemma-scope-2b-pt-res", "gemma-scope-2b-pt-transcoders"


def held(folder: Path) -> PlainSAE:
    """Return what is read of Gemma Scope's file in a folder."""
    r.gemma_scope()(folder)
    sae = ps.load_sae(folder)
    assert isinstance(sae, PlainSAE)
    return sae


@pytest.mark.parametrize(
    ("folder", "factor"),
    [
        (f"{RES}/embedding/width_4k/average_l0_6", D**0.5),
        (f"{CACHE.format('google--' + RES)}/embedding/width_4k/average_l0_6", D**0.5),
        ("my-embedding-study/layer_3", 1),
        ("embedding/gemma/layer_3/width_16k/average_l0_6", 1),
        ("embedding/layer_3", 1),
        ("embedding/a/b/c/d", 1),
        (f"embedding/{CACHE.format('me--embedding-study')}/layer_3", 1),
    ],
)
def test_only_gemma_scopes_folder_of_embeddings_is_rescaled(
    folder: str, factor: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = held(tmp_path / folder)

    assert torch.equal(sae.W_enc, r.drawn(D, MANY).T / factor)
    assert torch.equal(sae.W_dec, r.drawn(MANY, D) * factor)
    is_said = factor != 1 and "models--" not in folder
    assert capsys.readouterr().err.count("read as Gemma Scope's dictionary of embeddings") == (
        is_said
    )


@pytest.mark.parametrize(
    ("folder", "is_transcoder"),
    [
        (f"{TRANSCODERS}/layer_0/width_16k/average_l0_6", True),
        (f"google_{TRANSCODERS}/layer_0", True),
        ("gemma-scope-2-1b-pt/transcoder_all/layer_0_width_16k_l0_big", True),
        (f"{CACHE.format('me--my-transcoder')}/layer_3", True),
        ("sae-vs-transcoder/layer_3", False),
        (f"transcoders/{CACHE.format('google--' + RES)}/layer_3", False),
        ("transcoder/a/b/c/d", False),
    ],
)
def test_only_a_release_of_transcoders_is_read_as_one(
    folder: str, is_transcoder: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = held(tmp_path / folder)

    assert sae.is_autoencoder is not is_transcoder
    is_said = is_transcoder and "models--" not in folder
    assert capsys.readouterr().err.count("read as a transcoder") == is_said
    assert ps.load_sae(tmp_path / folder, transcoder=False).is_autoencoder


@pytest.mark.parametrize(
    ("file", "k"),
    [
        ("Qwen_L0_10/layer0.sae.pt", 10),
        ("sweep_l0_5_and_7/Qwen_L0_10/layer0.sae.pt", 10),
        ("sweep_l0_5/Qwen_L0_10/layers/layer0_l0_7.sae.pt", 7),
        (f"x_l0_5/{CACHE.format('Qwen--Qwen_L0_10')}/layer0.sae.pt", 10),
        ("model0_5/layer0.sae.pt", None),
        ("sweep_l0_5/a/b/c/d/layer0.sae.pt", None),
        (f"x_l0_5/{CACHE.format('Qwen--Qwen')}/layer0.sae.pt", None),
    ],
)
def test_k_is_the_last_that_the_names_of_a_release_have(
    file: str, k: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    weights = {"W_enc": r.drawn(MANY, D), "W_dec": r.drawn(D, MANY)}
    torch.save(weights | {"b_enc": r.drawn(MANY), "b_dec": r.drawn(D)}, tmp_path / file)

    if k is None:
        with pytest.raises(FormatError, match="does not say how many"):
            ps.load_sae(tmp_path / file)
        return
    sae = ps.load_sae(tmp_path / file)

    assert isinstance(sae.settings, Plain)
    assert sae.settings.k == k
    assert capsys.readouterr().err.count(f"k is {k}, as ") == ("models--" not in file)


def test_what_was_exported_from_here_may_be_called_anything(tmp_path: Path) -> None:
    """A dictionary of embeddings, say, in a folder of that name."""
    sae = held(tmp_path / "theirs")

    ps.export_sae(sae, tmp_path / "embedding", "gemma_scope")
    again = ps.load_sae(tmp_path / "embedding")

    assert torch.equal(again.encode(r.rows()), sae.encode(r.rows()))
    shutil.rmtree(tmp_path / "embedding")
    ps.export_sae(sae, tmp_path / "transcoder", "gemma_scope")
    assert ps.load_sae(tmp_path / "transcoder").is_autoencoder
