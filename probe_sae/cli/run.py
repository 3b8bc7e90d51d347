"""`probe-sae run`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.demo import summary_text
from probe_sae.cli.options import Force, Json, Resume


def run_job(
    job: Annotated[Path, typer.Argument(help="The job, a TOML file; `probe-sae guide jobs`.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; by default the job's name.")
    ] = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Do the whole job that a file describes.

    Example: `probe-sae run job.toml --out gpt2-block6`
    """
    from probe_sae.jobs import read_job, run

    folder = out or Path(job.stem)
    summary = run(read_job(job), folder, resume=resume, force=force)
    emit(summary | {"out": str(folder)}, summary_text(summary, folder), as_json=as_json)
