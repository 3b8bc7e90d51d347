"""The architecture that the guide shows can be added, and learns."""

import re
from pathlib import Path

import torch

import probe_sae
from probe_sae.sae import Settings, architectures, fraction_unexplained, load_sae
from probe_sae.training import TrainSettings, train

GUIDE = Path(probe_sae.__file__).parent / "guide" / "architectures.md"


def test_the_example_of_the_guide_trains_saves_and_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)
    (code,) = (block for block in blocks if "class Bare" in block)
    scope: dict[str, type[Settings]] = {}
    exec(compile(code, "bare.py", "exec"), scope)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(32, 16, generator=generator)
    rows = (torch.rand(4000, 32, generator=generator) < 0.1).float() @ directions
    architectures.ARCHITECTURES["bare"] = kind = scope["Bare"]
    try:
        run = TrainSettings(rows=200_000, batch_size=256)
        sae = train(rows, kind(features=48), run, out=tmp_path / "sae", device="cpu")
        again = load_sae(tmp_path / "sae")
    finally:
        del architectures.ARCHITECTURES["bare"]

    assert fraction_unexplained(rows, sae(rows)) < 0.3
    assert torch.equal(again.encode(rows[:9]), sae.encode(rows[:9]))
