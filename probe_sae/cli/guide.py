"""`probe-sae guide`."""

from importlib.resources import files
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Json


def guide(
    topic: Annotated[str | None, typer.Argument(help="The topic; none lists them.")] = None,
    as_json: Json = False,
) -> None:
    """Explain: jobs, files, adding a family, a dataset, an architecture.

    Example: `probe-sae guide jobs`
    """
    from probe_sae.errors import SettingsError, near

    folder = files("probe_sae.guide")
    topics = sorted(f.name.removesuffix(".md") for f in folder.iterdir() if f.name.endswith(".md"))
    if topic is None:
        emit({"topics": topics}, "Topics: " + ", ".join(topics), as_json=as_json)
        return
    if topic not in topics:
        known = ", ".join(topics)
        raise SettingsError(f"no guide {topic!r}; there are {known}.{near(topic, topics)}")
    text = (folder / f"{topic}.md").read_text("utf-8")
    emit({"topic": topic, "text": text}, text, as_json=as_json)
