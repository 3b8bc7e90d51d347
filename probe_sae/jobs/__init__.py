"""Whole jobs: the stages in a row, one summary."""

from probe_sae.jobs.demo import DEMOS, demo_folder, demo_job
from probe_sae.jobs.job import Job, job_from, read_job
from probe_sae.jobs.stages import run

__all__ = ["DEMOS", "Job", "demo_folder", "demo_job", "job_from", "read_job", "run"]
