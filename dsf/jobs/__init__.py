"""Measures a model on many prompts, in units that any executor runs and that can be resumed."""

from dsf.jobs.prompts import JobError as JobError
from dsf.jobs.prompts import JobMemoryError as JobMemoryError
from dsf.jobs.prompts import cluster as cluster
from dsf.jobs.prompts import in_process as in_process
from dsf.jobs.prompts import joblib_backend as joblib_backend
from dsf.jobs.prompts import measure_prompts as measure_prompts
from dsf.jobs.prompts import processes as processes
from dsf.jobs.summaries import gather as gather
from dsf.jobs.summaries import notes as notes
from dsf.jobs.summaries import summary as summary
from dsf.runtime.first_use import public_names

__all__ = public_names(__name__)
