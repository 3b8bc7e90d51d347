"""Messages name options as whoever reads them does."""

import pytest

from probe_sae.errors import OutputExists, ProbeSaeError, of_job, on_command_line
from probe_sae.progress import say

MESSAGES = {
    "out exists; add --force.": "out exists; add force=True.",
    "Continue it with --resume, or drop it with --force.": (
        "Continue it with resume=True, or drop it with force=True."
    ),
    "Name one with --site.": "Name one with `site`.",
    "--max-length 1 leaves no room.": "`max_length` 1 leaves no room.",
    "Lower it (--set lr=1e-4), or --set batch_size=5.": "Lower it (lr=1e-4), or batch_size=5.",
    "expected what `evaluate --out` wrote": "expected what `evaluate --out` wrote",
    "/--force/my--folder, a -- dash, ---force": "/--force/my--folder, a -- dash, ---force",
}


@pytest.mark.parametrize("written", MESSAGES)
def test_options_are_arguments_in_python(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(written)

    assert capsys.readouterr().err == f"{MESSAGES[written]}\n"
    assert str(OutputExists(written)) == MESSAGES[written]


def test_options_stay_options_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with on_command_line():
        with pytest.raises(KeyError), on_command_line():
            raise KeyError
        for written in MESSAGES:
            say(written)
            assert capsys.readouterr().err == f"{written}\n"
            assert str(ProbeSaeError(written)) == written

    assert str(ProbeSaeError("--force")) == "force=True"


def test_settings_are_keys_in_a_job_and_switches_stay_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with on_command_line(), of_job():
        say("More rows (--rows), or --set lr=1e-4; go on with --resume.")
    with of_job():
        say("More rows (--rows); go on with --resume.")

    on_line, in_python = capsys.readouterr().err.splitlines()
    assert on_line == "More rows (`rows`), or lr=1e-4; go on with --resume."
    assert in_python == "More rows (`rows`); go on with resume=True."
