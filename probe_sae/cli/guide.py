"""`probe-sae guide`."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Json

_SUFFIXES = (".md", ".ipynb")
_NOTEBOOK = "A notebook: `probe-sae guide {0} --out {0}.ipynb` writes it, to be run in Jupyter.\n\n"


def guide(
    topic: Annotated[str | None, typer.Argument(help="The topic; none lists them.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it into this file instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain: jobs, files, a tutorial, adding a family, every public name.

    Example: `probe-sae guide jobs`
    """
    from probe_sae.errors import OutputExists, SettingsError, near
    from probe_sae.outputs import write_whole

    folder = files("probe_sae.guide")
    kept = {
        Path(file.name).stem: file for file in folder.iterdir() if file.name.endswith(_SUFFIXES)
    }
    topics = sorted([*kept, "api"])
    if topic is None:
        if out is not None:
            raise SettingsError("--out needs a topic: which guide is to be written?")
        emit({"topics": topics}, "Topics: " + ", ".join(topics), as_json=as_json)
        return
    if topic not in topics:
        known = ", ".join(topics)
        raise SettingsError(f"no guide {topic!r}; there are {known}.{near(topic, topics)}")
    if topic == "api":
        from probe_sae.guide.api import api_page

        source = api_page()
    else:
        source = kept[topic].read_text("utf-8")
    if out is not None:
        if out.exists():
            raise OutputExists(f"{out} exists already; choose another file.")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, source)
        emit({"topic": topic, "out": str(out)}, f"{topic} -> {out}", as_json=as_json)
        return
    is_notebook = topic in kept and kept[topic].name.endswith(".ipynb")
    text = _NOTEBOOK.format(topic) + _cells_as_text(source) if is_notebook else source
    emit({"topic": topic, "text": text}, text, as_json=as_json)


def _cells_as_text(notebook: str) -> str:
    """Return a notebook's cells as Markdown, code in fences."""
    cells = json.loads(notebook)["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(
        f"```python\n{source}\n```" if kind == "code" else source for kind, source in sources
    )
