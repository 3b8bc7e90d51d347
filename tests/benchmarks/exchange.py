"""Every architecture and format against the real libraries, both ways; one table.

    python tests/benchmarks/exchange.py --saelens PYTHON --sparsify PYTHON \
        --dictionary-learning PYTHON --openai PYTHON

Each PYTHON is the interpreter of a venv in which that library is installed. A dictionary that the
library wrote is read by us; one of ours is written in its format and loaded by it. Codes and
reconstructions of the same raw rows are compared: the largest difference, over the largest value.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from exchange_peer import FEATURES, D, K, rows
from safetensors.torch import load_file
from torch import Tensor

import probe_sae as ps
from probe_sae.interop import WRITABLE

PEER = Path(__file__).with_name("exchange_peer.py")
LIMIT = 1e-5
OURS = (
    ps.L1(FEATURES, k=K),
    ps.Gated(FEATURES, k=K),
    ps.JumpReLU(FEATURES, k=K),
    ps.TopK(FEATURES, k=K),
    ps.BatchTopK(FEATURES, k=K),
    ps.Matryoshka(FEATURES, k=K),
    ps.HierarchicalTopK(FEATURES, k=K),
    ps.SignedTopK(FEATURES, k=K),
    ps.Archetypal(FEATURES, k=K),
    ps.FrozenDecoder(FEATURES, k=K),
    ps.FrozenEncoder(FEATURES, k=K),
    ps.MatchingPursuit(FEATURES, k=K),
    ps.KL(FEATURES),
    ps.Transcoder(FEATURES, k=K),
    ps.Transcoder(FEATURES, k=K, skip=False),
    ps.Crosscoder(FEATURES, k=K),
)


def worst(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def compared(sae: ps.SAE, expected: dict[str, Tensor]) -> tuple[float, float]:
    codes = sae.encode(rows())
    return worst(codes, expected["codes"]), worst(sae(rows()), expected["out"])


def line(way: str, library: str, name: str, errors: tuple[float, float]) -> bool:
    is_fine = max(errors) <= LIMIT
    print(
        f"| {way} | {library} | {name} | {errors[0]:.1e} | {errors[1]:.1e} | "
        f"{'same' if is_fine else 'DIFFERENT'} |",
        flush=True,
    )
    return is_fine


def read_theirs(library: str, python: str, base: Path) -> bool:
    subprocess.run([python, PEER, library, "write", base], check=True, stdout=subprocess.DEVNULL)
    fine = True
    for folder in sorted(base.iterdir()):
        expected = load_file(folder / "expected.safetensors")
        (folder / "expected.safetensors").unlink()
        fine &= line("theirs, read", library, folder.name, compared(ps.load_sae(folder), expected))
    return fine


def trained(folder: Path) -> dict[str, ps.SAE]:
    """Return one of ours of each architecture, trained for a moment on the rows."""
    saes: dict[str, ps.SAE] = {}
    generator = torch.Generator().manual_seed(1)
    second = rows() @ torch.randn(D, D, generator=generator) / 5 + 1
    for settings in OURS:
        name = settings.arch
        if getattr(settings, "skip", True) is False:
            name += " without skip"
        data = torch.cat([rows(), second], 1) if name.startswith(("trans", "cross")) else rows()
        widths = (D, D) if name.startswith(("trans", "cross")) else (D,)
        sae = ps.make_sae(settings, widths)
        sae.initialise(data, generator)
        optimiser = torch.optim.Adam([p for p in sae.parameters() if p.requires_grad], 1e-2)
        for _ in range(20):
            optimiser.zero_grad()
            sae.step(data).loss.backward()
            optimiser.step()
            sae.constrain()
        sae.finish(data)
        saes[name] = sae.requires_grad_(False).eval()
    return saes


def write_ours(library: str, python: str, base: Path, saes: dict[str, ps.SAE]) -> bool:
    base.mkdir()
    for name, sae in saes.items():
        try:
            ps.export_sae(sae, base / name, library)
        except ps.ProbeSaeError as problem:
            reason = str(problem).split(": ")[-1].split(". `")[0]
            print(f"| ours, written | {library} | {name} | | | refused: {reason} |")
    subprocess.run([python, PEER, library, "read", base], check=True, stdout=subprocess.DEVNULL)
    fine = True
    for folder in sorted(base.iterdir()):
        expected = load_file(folder / "expected.safetensors")
        errors = compared(saes[folder.name], expected)
        fine &= line("ours, written", library, folder.name, errors)
    return fine


def main() -> None:
    parser = argparse.ArgumentParser()
    for library in ("saelens", "sparsify", "dictionary-learning", "openai"):
        parser.add_argument(f"--{library}", metavar="PYTHON")
    given = {name: python for name, python in vars(parser.parse_args()).items() if python}
    if "saelens" in given:
        given["gemma_scope"] = given["saelens"]  # whose converters read it
    warnings.simplefilter("ignore")
    print("| way | library | class | codes | reconstructions | |\n|---|---|---|---|---|---|")
    fine = True
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        base = Path(folder)
        with torch.enable_grad():
            saes = trained(base)
        with torch.no_grad():
            for library, python in given.items():
                if library != "gemma_scope":
                    fine &= read_theirs(library, python, base / f"{library}-theirs")
                if library in WRITABLE:
                    fine &= write_ours(library, python, base / f"{library}-ours", saes)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
