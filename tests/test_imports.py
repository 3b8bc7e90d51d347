"""`import probe_sae` is quick: the heavy libraries come where they are used."""

import subprocess
import sys

import pytest

import probe_sae

HEAVY = ("transformers", "torchvision", "sklearn", "umap", "plotly", "pandas", "h5py", "numba")


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = f"import sys, probe_sae; print([n for n in {HEAVY} if n in sys.modules])"

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    assert printed.strip() == "[]"


def test_training_and_analysis_import_neither_transformers_nor_plotly() -> None:
    code = (
        "import sys, probe_sae as ps; ps.train, ps.analyse, ps.capture, ps.write_report;"
        "print([n for n in ('transformers', 'torchvision', 'umap', 'plotly') if n in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    assert printed.strip() == "[]"


@pytest.mark.parametrize("name", probe_sae.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(probe_sae, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        probe_sae.nonsense  # noqa: B018
