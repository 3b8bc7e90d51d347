"""Data files carry arrays and hostile text unharmed."""

import json

import numpy as np
import pytest

from probe_sae.reporting.encoding import (
    clean,
    fraction16,
    narrow,
    pack,
    plain,
    rounded,
    script,
    signed16,
    unpack,
)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i2", "i4", "f4"])
@pytest.mark.parametrize("shape", [(0,), (5,), (4, 3), (3, 0)])
def test_packed_arrays_come_back_bit_for_bit(kind: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(kind)

    found = unpack(pack({"first": np.arange(3, dtype=np.uint8), "second": array}))

    assert np.array_equal(found["first"], [0, 1, 2])
    assert np.array_equal(found["second"], array)
    assert found["second"].dtype == array.dtype


def test_the_same_arrays_give_the_same_bytes() -> None:
    arrays = {"a": np.arange(1000, dtype=np.uint16)}

    assert pack(arrays) == pack(arrays)


@pytest.mark.parametrize("bits", [11, 15])
def test_rounding_keeps_its_stated_precision(bits: int) -> None:
    exact = (10 ** np.random.default_rng(0).uniform(-20, 20, 10_000)).astype(np.float32)

    error = np.abs(rounded(exact, bits).astype(float) / exact - 1)

    assert error.max() <= 2.0 ** -(bits + 1) * 1.001


def test_rounding_keeps_zero_nan_and_infinity() -> None:
    special = np.array([0, np.nan, np.inf, -np.inf], dtype=np.float32)

    assert np.array_equal(rounded(special, 11), special, equal_nan=True)


def test_narrow_takes_the_smallest_type_that_holds_the_values() -> None:
    assert narrow(np.array([255])).dtype == np.uint8
    assert narrow(np.array([256])).dtype == np.uint16
    assert narrow(np.array([65536])).dtype == np.uint32


def test_shares_and_cosines_are_right_to_half_a_step() -> None:
    values = np.linspace(-1, 1, 10_001)

    assert np.abs(signed16(values) / 32767 - values).max() <= 0.5 / 32767 + 1e-12
    assert np.abs(fraction16(np.abs(values)) / 65535 - np.abs(values)).max() <= 0.5 / 65535 + 1e-12
    assert signed16(np.array([np.nan]))[0] == -32768


def test_a_script_is_ascii_and_cannot_close_its_tag() -> None:
    text = script("name", {"key</script>": ["<!-- & \u2028 \ud800 é"]})

    assert text.isascii()
    assert not set("<>&") & set(text)
    inner = text.removeprefix('probe.take("name",').removesuffix(");\n")
    assert json.loads(inner) == {"key</script>": ["<!-- & \u2028 \ufffd é"]}


def test_what_json_cannot_hold_becomes_null_or_text() -> None:
    value = {"a": float("nan"), "b": np.float32(0.5), "c": (np.int64(3), float("inf")), 1: True}

    assert plain(value) == {"a": None, "b": 0.5, "c": [3, None], "1": True}


def test_clean_keeps_characters_of_two_surrogates() -> None:
    assert clean("😀 \ud83d") == "😀 \ufffd"
