"""Measures a model on many prompts, in units that any executor runs and that can be resumed."""

from dsf.jobs.prompts import (
    JobError,
    JobMemoryError,
    cluster,
    in_process,
    joblib_backend,
    measure_prompts,
    processes,
)
from dsf.jobs.summaries import gather, notes, summary

__all__ = [
    "JobError",
    "JobMemoryError",
    "cluster",
    "gather",
    "in_process",
    "joblib_backend",
    "measure_prompts",
    "notes",
    "processes",
    "summary",
]
