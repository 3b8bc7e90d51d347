"""The commands, each in a file of its own."""

from typing import Annotated

import typer

from probe_sae import __version__
from probe_sae.cli import (
    analyse,
    capture,
    check,
    demo,
    encode,
    evaluate,
    exporting,
    guide,
    importing,
    listing,
    push,
    report,
    run,
    show,
    sites,
    steer,
    store,
    train,
)

app = typer.Typer(
    name="probe-sae",
    help="Look inside neural networks: record activations, learn a dictionary of features, "
    "browse them offline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"probe-sae {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Look inside neural networks.

    Begin with `probe-sae demo`; `probe-sae guide` explains the rest.
    """


for _name, _command in (
    ("demo", demo.demo),
    ("run", run.run_job),
    ("sites", sites.sites),
    ("check", check.check_command),
    ("capture", capture.capture_command),
    ("train", train.train_command),
    ("encode", encode.encode_command),
    ("evaluate", evaluate.evaluate_command),
    ("analyse", analyse.analyse_command),
    ("report", report.report_command),
    ("show", show.show),
    ("import", importing.import_command),
    ("export", exporting.export_command),
    ("push", push.push_command),
    ("steer", steer.steer_command),
    ("list", listing.listing),
    ("guide", guide.guide),
):
    app.command(_name)(_command)
app.add_typer(store.app, name="store")
