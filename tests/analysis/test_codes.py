"""Codes on disk are what the dictionary gives, are whole or absent, and are refused when spoilt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from probe_sae.analysis import Codes, analyse, encode, encoding, open_codes
from probe_sae.analysis.arrays import Features
from probe_sae.analysis.codes import Block, join, part_name
from probe_sae.errors import FormatError, OutputExists, SettingsError, StoreError
from probe_sae.evaluation import evaluate
from probe_sae.sae import SAE, SignedTopK, make_sae
from probe_sae.store import Store

from .small import WIDTH, dictionary, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("codes") / "store")


def dense(codes: Codes) -> Any:
    block = join(list(codes.blocks()))
    table = np.zeros((len(block), codes.features), np.float32)
    table[block.local, block.feature] = block.value
    return table


@pytest.mark.parametrize("made", [dictionary(), make_sae(SignedTopK(features=30, k=4), WIDTH)])
def test_codes_on_disk_are_those_of_the_dictionary(store: Store, tmp_path: Path, made: SAE) -> None:
    codes = encode(made, store, tmp_path / "codes")

    expected = made.encode(store.read("site", 0, store.rows)).detach()
    assert np.array_equal(dense(codes), expected.numpy())
    assert codes.rows == store.rows
    assert codes.firings == int((expected != 0).sum())
    assert np.allclose(codes.total(), expected.double().sum(0).numpy())


def test_columns_are_those_of_the_store(store: Store, tmp_path: Path) -> None:
    block = join(list(encode(dictionary(), store, tmp_path / "codes").blocks()))

    assert block.row.tolist() == list(range(store.rows))
    for name in ("context", "pos", "token"):
        assert getattr(block, name).tolist() == store.column(name).tolist()


@pytest.mark.parametrize("firings", [1, 50, 500])
def test_blocks_cut_no_context_and_leave_nothing_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, firings: int
) -> None:
    monkeypatch.setattr(encoding, "BLOCK_ROWS", 16)
    monkeypatch.setattr(encoding, "PART_FIRINGS", 700)
    codes = encode(dictionary(), store, tmp_path / "codes")
    blocks = list(codes.blocks(firings))

    assert len(codes.parts) > 5
    assert len(blocks) > len(codes.parts) or firings == 500
    seen = [set(block.context.tolist()) for block in blocks]
    assert sum(len(contexts) for contexts in seen) == len(set().union(*seen)) == store.contexts
    assert np.array_equal(dense(codes), dense(encode(dictionary(), store, tmp_path / "whole")))


def test_rows_of_a_block_can_be_chosen(store: Store, tmp_path: Path) -> None:
    block = join(list(encode(dictionary(), store, tmp_path / "codes").blocks()))
    wanted = block.pos % 3 == 0

    some = block.of_rows(wanted)

    assert some.row.tolist() == block.row[wanted].tolist()
    for i in range(0, len(some), 11):
        at = int(np.flatnonzero(wanted)[i])
        mine, whole = slice(*some.starts[i : i + 2]), slice(*block.starts[at : at + 2])
        assert some.feature[mine].tolist() == block.feature[whole].tolist()
        assert some.value[mine].tolist() == block.value[whole].tolist()


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_interrupted_encoding_is_continued_where_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(encoding, "BLOCK_ROWS", 16)
    monkeypatch.setattr(encoding, "PART_FIRINGS", 700)
    whole = encode(dictionary(), store, tmp_path / "whole")
    real, written = encoding.write_part, 0

    def stopping(path: Path, block: Block, total: Any) -> None:
        nonlocal written
        if written == after:
            raise _StoppedError
        written += 1
        real(path, block, total)

    monkeypatch.setattr(encoding, "write_part", stopping)
    with pytest.raises(_StoppedError):
        encode(dictionary(), store, tmp_path / "codes")
    assert not (tmp_path / "codes").exists()
    assert (tmp_path / "codes.partial").exists() == (after > 0)
    monkeypatch.setattr(encoding, "write_part", real)
    encode(dictionary(), store, tmp_path / "codes", resume=True)

    for path in whole.parts:
        assert (tmp_path / "codes" / path.name).read_bytes() == path.read_bytes()
    assert open_codes(tmp_path / "codes").info == whole.info


def test_an_interrupted_analysis_encodes_nothing_twice(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PART_FIRINGS", 700)
    monkeypatch.setattr(encoding, "BLOCK_ROWS", 16)
    whole = analyse(dictionary(), store, tmp_path / "whole")

    def stopping(*_: Any) -> None:
        raise _StoppedError

    with monkeypatch.context() as patched:
        patched.setattr("probe_sae.analysis.passes._counted", stopping)
        with pytest.raises(_StoppedError):
            analyse(dictionary(), store, tmp_path / "analysis")
    with monkeypatch.context() as patched:
        patched.setattr("probe_sae.analysis.passes.write_codes", stopping)
        resumed = analyse(dictionary(), store, tmp_path / "analysis", resume=True)

    assert not (tmp_path / "analysis" / "codes").exists()
    for name in Features.__dataclass_fields__:
        one, two = getattr(whole.columns, name), getattr(resumed.columns, name)
        assert np.array_equal(one, two, equal_nan=one.dtype.kind == "f"), name


def test_codes_of_something_else_are_not_continued(store: Store, tmp_path: Path) -> None:
    other = dictionary()
    with torch.no_grad():
        other.get_parameter("b_enc")[3] += 1
    codes = encode(other, store, tmp_path / "codes", rows="held_out")

    with pytest.raises(SettingsError, match="dictionary differ"):
        analyse(dictionary(), store, tmp_path / "analysis", codes=codes)
    assert analyse(other, store, tmp_path / "analysis", codes=codes).info["rows"] == codes.rows


def test_finished_codes_are_not_overwritten(store: Store, tmp_path: Path) -> None:
    encode(dictionary(), store, tmp_path / "codes")

    with pytest.raises(OutputExists):
        encode(dictionary(), store, tmp_path / "codes")
    assert encode(dictionary(), store, tmp_path / "codes", resume=True).rows == store.rows
    assert encode(dictionary(), store, tmp_path / "codes", force=True).rows == store.rows


def _rewritten(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with h5py.File(folder / part_name(0), "r+") as file:
            data = change(np.asarray(file[name]))
            del file[name]
            file.create_dataset(name, data=data)

    return apply


def _described(**wrong: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        info = json.loads((folder / "codes.json").read_text())
        (folder / "codes.json").write_text(json.dumps({**info, **wrong}))

    return apply


def _cut(folder: Path) -> None:
    path = folder / part_name(0)
    path.write_bytes(path.read_bytes()[:-2000])


def _lacking(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with h5py.File(folder / part_name(0), "r+") as file:
            del file[name]

    return spoil


def _linked(folder: Path) -> None:
    with h5py.File(folder / part_name(0), "r+") as file:
        del file["value"]
        file["value"] = h5py.ExternalLink("/etc/hostname", "/")


def test_finished_codes_are_those_that_were_asked_for(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode(dictionary(), store, tmp_path / "codes")
    other = dictionary(1)

    with pytest.raises(SettingsError, match="is finished, and was made of something else: the dic"):
        encode(other, store, tmp_path / "codes", resume=True)
    encode(dictionary(), store, tmp_path / "codes", resume=True)
    assert "nothing to do" in capsys.readouterr().err


def test_a_finished_analysis_is_the_one_that_was_asked_for(store: Store, tmp_path: Path) -> None:
    whole = analyse(dictionary(), store, tmp_path / "analysis")
    others: list[tuple[str, SAE, dict[str, Any]]] = [
        ("the dictionary", dictionary(1), {}),
        ("the choice of rows", dictionary(), {"rows": "all"}),
        ("seed", dictionary(), {"seed": 1}),
    ]

    for what, sae, how in others:
        with pytest.raises(SettingsError, match=f"made of something else: .*{what}"):
            analyse(sae, store, tmp_path / "analysis", resume=True, **how)
    again = analyse(dictionary(), store, tmp_path / "analysis", resume=True)
    assert again.info["made_of"] == whole.info["made_of"]


def test_a_row_that_is_no_number_is_named(tmp_path: Path) -> None:
    broken = make_store(tmp_path / "store")
    with h5py.File(broken.shards[0].path, "r+") as file:
        data: Any = file["sites/site/acts"]
        data[3, 2] = np.nan

    with pytest.raises(StoreError, match=r"is damaged: 1 rows .*rows 3 of the data"):
        encode(dictionary(), broken, tmp_path / "codes")
    with pytest.raises(StoreError, match="is damaged: 1 rows"):
        evaluate(dictionary(), broken, baselines=False)
    with pytest.raises(StoreError, match="damaged"):
        evaluate(dictionary(), broken)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_rewritten("feature", lambda column: column + 60), "features that are not there"),
        (_rewritten("feature", lambda column: column[::-1]), "out of order"),
        (_rewritten("value", lambda column: column * np.nan), "not finite"),
        (_rewritten("value", lambda column: column[:-1]), "contradicts itself"),
        (_rewritten("count", lambda column: column + 1), "contradicts itself"),
        (_rewritten("row", lambda column: column[:, None]), "columns that are none"),
        (_lacking("context"), "lacks context"),
        (_described(version=2), "version 2"),
        (_described(format="else"), "does not describe codes"),
        (_described(parts=["../../secret.h5"]), "damaged"),
        (_described(features="many"), "damaged"),
        (_cut, "HDF5|damaged|half written"),
        (_linked, "links elsewhere"),
    ],
)
def test_spoilt_codes_are_refused(
    store: Store, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    encode(dictionary(), store, tmp_path / "codes")
    spoil(tmp_path / "codes")

    with pytest.raises(FormatError, match=message):
        list(open_codes(tmp_path / "codes").blocks())
