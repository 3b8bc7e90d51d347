"""The tutorial runs, the page of names has them all, and guides name only what there is."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import probe_sae as ps
from probe_sae.analysis import structure
from probe_sae.guide.api import api_page

GUIDES = Path(ps.__file__).parent / "guide"
README = Path(__file__).parents[1] / "README.md"
NOTEBOOK = GUIDES / "tutorial.ipynb"
SHORTER = {
    "rows=40_000": "rows=3_000",
    "rows=150_000, batch_size=2048": "rows=6_000, batch_size=512",
    "features=512": "features=64",
    "contexts=25": "contexts=2",
    "firings > 200": "firings > 5",
    "tokens=20": "tokens=2",
}
PAGES = [*sorted(GUIDES.glob("*.md")), NOTEBOOK, README]
WITH_JUPYTER = all(map(importlib.util.find_spec, ("nbclient", "nbformat", "ipykernel")))


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shorter(code: str) -> str:
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    return code


def plain_map(rows: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Stand in for UMAP, which takes half a minute to compile."""
    axes = np.random.default_rng(seed).standard_normal((rows.shape[1], 2))
    return (rows @ axes).astype(np.float32)


def test_the_tutorial_is_kept_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))

    assert notebook["nbformat"] == 4
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert all(long in "".join(code_cells()) for long in SHORTER)


def test_the_tutorials_code_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(structure, "quiet_umap", plain_map)
    space: dict[str, Any] = {}

    for code in code_cells():
        exec(shorter(code), space)

    assert (tmp_path / "tutorial/report/index.html").exists()
    assert space["found"].metrics["fraction_unexplained"] < 1
    assert space["written"].original != ""
    assert f"Feature {space['number']}" in repr(space["analysis"].feature(space["number"]))


@pytest.mark.skipif(not WITH_JUPYTER, reason="nbclient, nbformat and ipykernel are not installed")
def test_jupyter_runs_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("with --long")
    import nbclient  # pyright: ignore[reportMissingImports]
    import nbformat  # pyright: ignore[reportMissingImports]

    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = shorter(cell.source)

    client: Any = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()

    shown = json.dumps(notebook.cells)
    assert "<progress" in shown
    assert "<table>" in shown
    assert "iframe" in shown


def test_the_page_of_names_has_every_public_name_once() -> None:
    page = api_page()

    for name in ps.__all__:
        assert len(re.findall(rf"^### `{name}[(`]", page, re.M)) == 1, name
    assert " object at 0x" not in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_guides_name_only_what_there_is(page: Path) -> None:
    text = page.read_text("utf-8")
    topics = {path.stem for path in GUIDES.glob("*.*")} - {"__init__"} | {"TOPIC"}

    named = set(re.findall(r"\bps\.([A-Za-z]\w*)", text))
    guides = set(re.findall(r"probe-sae guide ([a-z][\w-]*)", text))

    assert named - {"__version__"} <= set(ps.__all__)
    assert guides <= topics


@pytest.mark.parametrize("page", [p for p in PAGES if p.suffix == ".md"], ids=lambda p: p.name)
def test_commands_in_guides_are_commands(page: Path) -> None:
    from typer.main import get_command

    from probe_sae.cli.app import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    used = set(re.findall(r"^(?:\$ )?probe-sae ([a-z]+)", "\n".join(blocks), re.M))

    assert used <= commands
