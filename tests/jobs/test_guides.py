"""The jobs that the guides print are jobs, and run."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import probe_sae
from probe_sae.jobs import job_from, run

GUIDES = Path(probe_sae.__file__).parent / "guide"


def jobs(guide: str) -> dict[str, dict[str, Any]]:
    """Return the jobs of a guide by the heading above each."""
    text = (GUIDES / f"{guide}.md").read_text("utf-8")
    found = re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?^```toml\n(.*?)^```", text, re.M | re.S)
    return {heading: tomllib.loads(block) for heading, block in found}


def test_the_guide_of_jobs_prints_a_job() -> None:
    text = (GUIDES / "jobs.md").read_text("utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.S)

    job = job_from(tomllib.loads(block), "guide")

    assert (job.host, job.evaluate_on) == ("gpt2", "other-texts")


@pytest.mark.parametrize("name", jobs("autoencoders"))
def test_classic_autoencoders_run_as_the_guide_has_them(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Shorter, and with data that is here."""
    given = os.environ.get("PROBE_SAE_DATA")
    raw = jobs("autoencoders")[name]
    job_from(raw, "guide")
    if not given:
        pytest.skip("PROBE_SAE_DATA is not set")
    if "CNN" not in name and not request.config.getoption("--long"):
        pytest.skip("with --long")
    data = Path(given)
    if raw["data"]["name"] == "mnist":
        raw["data"] |= {"root": str(data / "mnist"), "rows": 2_000}
    else:
        raw["data"]["name"] = str(data / "images")
        (weights,) = (data / "image_models").glob("squeezenet*")
        raw["host"]["name"] = f"torchvision:squeezenet1_1@{weights}"
        raw["train"]["features"] = 128
    raw["train"]["rows"] = 20_000

    summary = run(job_from(raw, "guide"), tmp_path / "out")

    assert summary["metrics"]["fraction_unexplained"] < 1
    assert summary["metrics"]["l0"] > 1
    assert (tmp_path / "out" / "report" / "index.html").exists()


def test_the_guide_has_every_variant() -> None:
    assert len(jobs("autoencoders")) == 3
