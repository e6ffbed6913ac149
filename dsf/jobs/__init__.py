"""Many prompts through one model: a list of units that any executor works off, and that resumes."""

from dsf.jobs.executors import cluster, in_process, processes
from dsf.jobs.prompts import JobError, measure_prompts
from dsf.jobs.summaries import gather, summary

__all__ = [
    "JobError",
    "cluster",
    "gather",
    "in_process",
    "measure_prompts",
    "processes",
    "summary",
]
