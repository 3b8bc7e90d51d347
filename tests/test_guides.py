"""The tutorial runs, the page of names has them all, and guides name only what there is."""

import ast
import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.main import get_command

import probe_sae as ps
from probe_sae.analysis import structure
from probe_sae.cli.app import app
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
    assert "- `bandwidth`: " in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_guides_name_only_what_there_is(page: Path) -> None:
    text = page.read_text("utf-8")
    topics = {path.stem for path in GUIDES.glob("*.*")} - {"__init__"} | {"TOPIC"}

    named = set(re.findall(r"\bps\.([A-Za-z]\w*)", text))
    guides = set(re.findall(r"probe-sae guide ([a-z][\w-]*)", text))

    assert named - {"__version__"} <= set(ps.__all__)
    assert guides <= topics


def calls(text: str) -> list[tuple[str, ast.Call]]:
    """Return the calls of public names in a page's blocks and spans of Python."""
    pieces = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    pieces += [span.replace(": host(batch)", ": pass") for span in re.findall(r"`([^`\n]+)`", text)]
    found: list[tuple[str, ast.Call]] = []
    for piece in pieces:
        try:
            tree = ast.parse(piece)
        except SyntaxError:
            continue  # a name, a command, a formula
        for node in ast.walk(tree):
            match node:
                case ast.Call(ast.Attribute(ast.Name("ps"), name)) if name in ps.__all__:
                    found.append((name, node))
                case _:
                    pass
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_calls_in_guides_fit_their_functions(page: Path) -> None:
    text = page.read_text("utf-8") if page != NOTEBOOK else "\n".join(code_cells())

    for name, call in calls(text):
        signature = inspect.signature(getattr(ps, name))
        named = {word.arg: word for word in call.keywords if word.arg is not None}
        is_whole = not any(isinstance(a, ast.Starred) for a in call.args) and not any(
            isinstance(a, ast.Constant) and a.value is ... for a in call.args
        )
        bind = signature.bind if is_whole and len(named) == len(call.keywords) else None

        (bind or signature.bind_partial)(*call.args if bind else (), **named)


def used_commands(text: str) -> list[tuple[str, list[str]]]:
    """Return each command in a page, as `train` or `store shuffle`, with its options."""
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(probe-sae [^`\n]+)`", text)
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if match := re.match(r"(?:\$ )?probe-sae (store (?=[a-z])\w+|[a-z]+)([^#|;&]*)", line):
            found.append((match[1], re.findall(r"(?<=\s)--[a-z][a-z-]*", match[2])))
    return found


@pytest.mark.parametrize("page", [p for p in PAGES if p.suffix == ".md"], ids=lambda p: p.name)
def test_commands_in_guides_are_commands(page: Path) -> None:
    commands: Any = get_command(app)

    for name, options in used_commands(page.read_text("utf-8")):
        command = commands
        for part in name.split():
            assert part in command.commands, name
            command = command.commands[part]
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {o for parameter in command.params for o in parameter.secondary_opts}
        assert set(options) <= known | {"--help"}, name


def test_the_readme_lists_every_guide() -> None:
    table = README.read_text("utf-8").partition("## Guides")[2].partition("\n## ")[0]

    listed = set(re.findall(r"`([a-z][\w-]*)`", table)) - {"probe-sae"}

    assert listed == {path.stem for path in PAGES if path != README} | {"api"}
