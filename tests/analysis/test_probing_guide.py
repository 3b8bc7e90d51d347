"""The guide's examples run in their order and print what it says they print, with fewer rows."""

import re
from pathlib import Path
from typing import Any

import pytest

import probe_sae

GUIDE = Path(probe_sae.__file__).parent / "guide" / "probing.md"
SHORTER = {
    "60_000": "4_000",
    "500_000": "8_000",
    "400_000": "8_000",
    "[:40]": "[:6]",
    "k=(1, 5)": "k=(1, 5), most=1_000, repeats=2",
    "contexts=8": "contexts=2",
    "corpus, top=3": "corpus, top=3, contexts=2",
}


def words(printed: str) -> list[str]:
    """Return the first line's words: a table's columns, or what a thing is."""
    return re.findall(r"[a-z_]{2,}", printed.strip().splitlines()[0])


def test_the_guides_examples_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n(?:```\n(.*?)```\n)?", text, re.S)
    space: dict[str, Any] = {}
    for code, expected in blocks:
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        capsys.readouterr()

        exec(code, space)

        printed = capsys.readouterr().out
        assert bool(printed) == bool(expected)
        if expected:
            assert words(printed) == words(expected)
    assert len(blocks) == 6
