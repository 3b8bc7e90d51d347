"""Checkpoints that lie, are damaged or would run code: refused, and nothing is executed."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import probe_sae as ps
from probe_sae.errors import FormatError, HostNotFound, ProbeSaeError, SettingsError

from . import references as r

D, MANY = r.D, r.MANY


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def state(**more: Any) -> dict[str, Any]:
    """Return the tensors of an AutoEncoder of dictionary_learning."""
    found = {"encoder.weight": r.drawn(MANY, D), "encoder.bias": r.drawn(MANY)}
    return found | {"decoder.weight": r.drawn(D, MANY), "bias": r.drawn(D)} | more


def linear() -> dict[str, torch.Tensor]:
    """Return the tensors of two linear layers, as Llama Scope has them."""
    found = {"encoder.weight": r.drawn(MANY, D), "encoder.bias": r.drawn(MANY)}
    return found | {"decoder.weight": r.drawn(D, MANY), "decoder.bias": r.drawn(D)}


@pytest.mark.parametrize("protocol", ["torch", "zip", "bare"])
def test_a_pickle_is_not_executed(tmp_path: Path, protocol: str) -> None:
    mark, file = tmp_path / "mark", tmp_path / "ae.pt"
    if protocol == "torch":
        torch.save(state(extra=Payload(mark)), file)
    elif protocol == "zip":
        torch.save(state(), file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Payload(mark)))
    else:
        file.write_bytes(pickle.dumps(state(extra=Payload(mark))))

    with pytest.raises(FormatError):
        ps.load_sae(file)

    assert not mark.exists()


def test_a_pickle_with_more_than_tensors_says_what_to_do(tmp_path: Path) -> None:
    torch.save(state(extra=Payload(tmp_path / "mark")), tmp_path / "ae.pt")

    with pytest.raises(FormatError, match=r"save its state_dict\(\)"):
        ps.load_sae(tmp_path / "ae.pt")


def test_objects_of_an_npz_are_not_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    arrays: dict[str, Any] = {"W_enc": np.array([Payload(mark)], dtype=object)}
    np.savez(tmp_path / "params.npz", **arrays)

    with pytest.raises(FormatError, match="expected numbers"):
        ps.load_sae(tmp_path / "params.npz")

    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.weight": r.drawn(MANY, D, 2)}, "has shape"),
        ({"encoder.bias": r.drawn(MANY + 1)}, r"has shape \[25\], expected \[24\]"),
        ({"decoder.weight": r.drawn(MANY, D)}, r"expected \[10, 24\]"),
        ({"bias": torch.zeros(D, dtype=torch.int64)}, "expected floats"),
        ({"bias": torch.full((D,), float("nan"))}, "not finite"),
        ({"bias": torch.full((D,), float("inf"))}, "not finite"),
        ({"bias": torch.zeros(D, dtype=torch.complex64)}, "no plain tensor"),
        ({"bias": torch.zeros(D).to_sparse()}, "no plain tensor"),
        ({"encoder.weight": torch.zeros(1).expand(1 << 30, 1 << 20)}, "more values than the file"),
        ({"more": [1, 2]}, "is a list"),
    ],
)
def test_a_state_dict_that_lies(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    torch.save(state(**change), tmp_path / "ae.pt")

    with pytest.raises(FormatError, match=message):
        ps.load_sae(tmp_path / "ae.pt", dict_class="AutoEncoder")


def test_a_missing_weight_is_named_beside_those_there_are(tmp_path: Path) -> None:
    found = state()
    del found["bias"]
    torch.save(found, tmp_path / "ae.pt")

    with pytest.raises(FormatError, match=r"has no bias; there are decoder\.weight"):
        ps.load_sae(tmp_path / "ae.pt", dict_class="AutoEncoder")


@pytest.mark.parametrize("name", ["ae.pt", "sae.safetensors", "params.npz"])
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"{", b"PK\3\4" + b"x" * 100])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(FormatError, match=name):
        ps.load_sae(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_half_a_file_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(state(), file)
    elif suffix == ".safetensors":
        save_file(state(), file)
    else:
        r.gemma_scope()(tmp_path / "g")
        file.write_bytes((tmp_path / "g" / "params.npz").read_bytes())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    with pytest.raises(FormatError):
        ps.load_sae(file)


def test_a_gigantic_header_is_no_reason_to_take_memory(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    r.saelens("standard", {"d_sae": 1 << 40})(tmp_path / "s")

    with pytest.raises(FormatError):
        ps.load_sae(tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="has shape"):
        ps.load_sae(tmp_path / "s")


def test_an_npz_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    np.lib.format.write_array_header_1_0(header, described)  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue() + b"\0" * 64)

    with pytest.raises(FormatError, match="not as long as its shape"):
        ps.load_sae(tmp_path / "params.npz")


def test_an_npz_that_unpacks_to_far_more_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W_enc.npy", b"\0" * (64 << 20))

    with pytest.raises(FormatError, match="far too much"):
        ps.load_sae(tmp_path / "params.npz")


def test_a_torch_file_that_unpacks_to_far_more_is_not_unpacked(tmp_path: Path) -> None:
    torch.save(state(more=torch.zeros(1 << 20)), tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "ae.pt", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for part in whole.infolist():
            archive.writestr(part.filename, whole.read(part))

    with pytest.raises(FormatError, match=r"data/\d unpacks to far too much, 4,194,304 bytes"):
        ps.load_sae(tmp_path / "ae.pt", dict_class="AutoEncoder")
    with pytest.raises(HostNotFound, match="unpacks to far too much"):
        ps.load_host(f"torchvision:squeezenet1_1@{tmp_path / 'ae.pt'}")


def test_parts_of_a_torch_file_that_share_bytes_are_refused(tmp_path: Path) -> None:
    torch.save(state(more=torch.zeros(1000)), tmp_path / "ae.pt")
    with zipfile.ZipFile(tmp_path / "ae.pt", "a") as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        archive.filelist += [largest] * 3
        archive._didModify = True  # type: ignore[attr-defined]

    with pytest.raises(FormatError, match="more bytes than the file"):
        ps.load_sae(tmp_path / "ae.pt", dict_class="AutoEncoder")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[1, 2]", "expected a JSON object"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (json.dumps({"d_in": "../../etc"}), "expected a whole number"),
        (json.dumps({"d_in": D, "d_sae": -3}), "has shape"),
        (json.dumps({"d_in": D, "d_sae": MANY, "architecture": "temporal"}), "rows before"),
        (json.dumps({"d_in": D, "d_sae": MANY, "architecture": "new"}), "not known"),
        ('{"d_in": Infinity}', "d_in is inf, expected a whole number"),
        (f'{{"d_in": {D}, "d_sae": NaN}}', "d_sae is nan, expected a whole number"),
        (
            f'{{"d_in": {D}, "d_sae": {MANY}, "architecture": "topk", "k": Infinity}}',
            "k is inf, expected a whole number",
        ),
        (json.dumps({"d_in": D, "d_sae": MANY, "architecture": "topk", "k": 0}), "a: k is 0"),
        (json.dumps({"d_in": D, "d_sae": MANY, "architecture": ["topk"]}), r"\['topk'\].* word"),
        (json.dumps({"d_in": D, "d_sae": MANY, "normalize_activations": [1]}), r"\[1\].* word"),
        (
            json.dumps({"d_in": D, "d_sae": MANY, "normalize_activations": "covariance_whitening"}),
            "save_inference_model",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense(tmp_path: Path, config: str, message: str) -> None:
    r.saelens("standard")(tmp_path / "a")
    (tmp_path / "a" / "cfg.json").write_text(config)

    with pytest.raises(FormatError, match=message):
        ps.load_sae(tmp_path / "a")


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("-1", "scaling_factor is -1.0, expected a number over 0"),
        ("0", "over 0"),
        ("true", "finite number"),
        ("Infinity", "finite number"),
        ("NaN", "finite number"),
        ("1" + "0" * 400, "finite number"),
        ("1e300", "W_enc would hold values that are not finite"),
        ("1e-300", "W_dec, b_dec would hold values"),
    ],
)
def test_a_scale_that_is_none_is_refused(tmp_path: Path, scale: str, message: str) -> None:
    r.saelens("standard", {"normalize_activations": "expected_average_only_in"})(tmp_path / "a")
    (tmp_path / "a" / "activation_scaler.json").write_text(f'{{"scaling_factor": {scale}}}')

    with pytest.raises(FormatError, match=message):
        ps.load_sae(tmp_path / "a")


@pytest.mark.parametrize(
    ("lengths", "threshold", "message"),
    [
        ('{"in": Infinity}', "1", "norm.in is inf, expected a finite number"),
        ('{"in": 0}', "1", "over 0"),
        ('{"in": true}', "1", "finite number"),
        ("[5]", "1", "finite number"),
        ('{"in": 1e-300}', "1", "W_enc, threshold would"),
        ('{"in": 5}', "NaN", "threshold is nan, expected a finite number"),
        ('{"in": 5}', '"a"', "threshold is 'a', expected a finite number"),
    ],
)
def test_lengths_and_thresholds_of_llama_scope_are_numbers(
    tmp_path: Path, lengths: str, threshold: str, message: str
) -> None:
    (tmp_path / "checkpoints").mkdir()
    save_file(linear(), tmp_path / "checkpoints" / "final.safetensors")
    norm = f'{{"dataset_average_activation_norm": {lengths}, "jump_relu_threshold": {threshold}}}'
    (tmp_path / "hyperparams.json").write_text(norm)

    with pytest.raises(FormatError, match=message):
        ps.load_sae(tmp_path)


@pytest.mark.parametrize("length", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("norm", ["dataset-wise", "token-wise"])
def test_a_length_of_rows_is_never_left_out(tmp_path: Path, length: float, norm: str) -> None:
    more = {
        "log_jumprelu_threshold": torch.zeros(MANY),
        "dataset_average_activation_norm.x": torch.tensor(length),
    }
    save_file(linear() | more, tmp_path / "sae_weights.safetensors")
    r.write_json(tmp_path / "config.json", {"hook_point_in": "x", "norm_activation": norm})

    with pytest.raises(FormatError, match=r"norm\S* is (0|-1|nan|inf)"):
        ps.load_sae(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": torch.tensor(float("inf"))}, "threshold is inf, expected a finite number"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": 1e300}, "threshold would hold values that are not finite"),
        ({"threshold": 1 << 2000}, "finite number"),
    ],
    ids=["inf", "nan", "larger than a weight", "larger than a number"],
)
def test_numbers_of_a_state_dict_are_numbers(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    found = state(b_dec=r.drawn(D), threshold=torch.tensor(1.0))
    torch.save(found | change, tmp_path / "ae.pt")

    with pytest.raises(FormatError, match=message):
        ps.load_sae(tmp_path / "ae.pt", dict_class="BatchTopKSAE")


def test_a_multiplier_that_is_too_large_is_refused(tmp_path: Path) -> None:
    first = {"encoder.final_block.0.weight": r.drawn(MANY, D)}
    first |= {"encoder.final_block.0.bias": r.drawn(MANY)}
    more = {"dictionary._weights": r.drawn(MANY, D), "dictionary.multiplier": torch.tensor(1e4)}
    torch.save(first | more, tmp_path / "a.pt")

    with pytest.raises(FormatError, match="W_dec would hold"):
        ps.load_sae(tmp_path / "a.pt", activation="relu")


def test_names_in_a_file_reach_no_other_file(tmp_path: Path) -> None:
    """Words of a configuration are kept as words; a path in them is not opened."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    config = {"metadata": {"hook_name": str(secret), "model_name": "../" * 9 + "etc/passwd"}}
    r.saelens("standard", config)(tmp_path / "a")

    ps.export_sae(tmp_path / "a", tmp_path / "b", "dictionary_learning")

    assert {path.name for path in tmp_path.iterdir()} == {"secret", "a", "b"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "ae.pt",
        "config.json",
        "probe_sae.json",
    }


def test_what_there_is_is_named_where_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    run = tmp_path / "run"
    r.sparsify()(run / "layers.3")
    r.sparsify()(run / "layers.4")

    with pytest.raises(FormatError, match=r"It has notes\.txt, run; known are saelens"):
        ps.load_sae(tmp_path)
    with pytest.raises(FormatError, match=r"layers\.3, layers\.4\. Name one"):
        ps.load_sae(run)
    with pytest.raises(FormatError, match="there is no"):
        ps.load_sae(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="Near it: k"):
        ps.load_sae(run / "layers.3", kk=3)
    with pytest.raises(FormatError, match="Near it: saelens"):
        ps.export_sae(run / "layers.3", tmp_path / "out", "sealens")
    with pytest.raises(FormatError, match="read only"):
        ps.export_sae(run / "layers.3", tmp_path / "out", "goodfire")


def test_an_import_is_whole_or_absent(tmp_path: Path) -> None:
    r.sparsify()(tmp_path / "a")

    sae = ps.import_sae(tmp_path / "a", tmp_path / "sae")

    assert torch.equal(ps.load_sae(tmp_path / "sae").encode(r.rows()), sae.encode(r.rows()))
    with pytest.raises(ProbeSaeError, match="exists already"):
        ps.import_sae(tmp_path / "a", tmp_path / "sae")
    with pytest.raises(FormatError, match="not of the format gemma_scope; it is sparsify"):
        ps.import_sae(tmp_path / "a", tmp_path / "b", format="gemma_scope")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "sae"}
