"""Executors, which run units in this process, in several processes, or as jobs of a cluster.

An executor is a function from ``do`` and units to outcomes, in the order in which they finish. The
results do not depend on the executor.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dsf.jobs.storage import Unit
from dsf.runtime.argument_checks import checked
from dsf.runtime.first_use import library
from dsf.runtime.shapes import at_least

SCALE = '"dsf-toolkit[scale]"'

Outcome = tuple[Unit, str | None]
"""A unit, and None or the reason why it failed."""
Do = Callable[[Unit], Outcome]


Executor = Callable[[Do, Sequence[Unit]], Iterator[Outcome]]
"""Calls ``Do`` once on every unit."""


def in_process(do: Do, units: Sequence[Unit]) -> Iterator[Outcome]:
    """Run one unit after the other in this process."""
    return map(do, units)


@checked
def processes(workers: int) -> Executor:
    """Run units in ``workers`` local processes, through joblib; each loads the model once.

    Raises:
        ValueError: if ``workers`` is not positive.
        ImportError: if joblib is not installed.
    """
    return joblib_backend("loky", jobs=at_least(1, "processes", "workers", workers))


@checked
def joblib_backend(name: str, *, jobs: int = -1, **parameters: Any) -> Executor:
    """Run units through a backend of joblib, such as ``"dask"`` or ``"ray"``.

    For a cluster without Slurm. The backend's own package, its client and its workers are yours;
    every worker needs this package, the checkpoint and the folder of the job under the same paths.

        from dask.distributed import Client
        Client("scheduler:8786")
        dsf.jobs.measure_prompts(model, prompts, folder, executor=dsf.jobs.joblib_backend("dask"))

    Args:
        name: of a backend that is known to joblib; Ray's is registered by ``register_ray()``.
        jobs: how many units run at the same time; -1 for as many as the backend has workers.
        parameters: for ``joblib.parallel_config``.

    Raises:
        ImportError: if joblib is not installed.
    """
    joblib = library("joblib_backend", "joblib", SCALE)

    def run(do: Do, units: Sequence[Unit]) -> Iterator[Outcome]:
        with joblib.parallel_config(name, n_jobs=jobs, **parameters):
            try:
                parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
            except ValueError:  # such as Ray's, which returns all units at the end
                parallel = joblib.Parallel(batch_size=1)
            yield from parallel(joblib.delayed(do)(unit) for unit in units)

    return run


@checked
def cluster(
    folder: str | Path, *, units_per_job: int = 64, cluster: str | None = None, **parameters: Any
) -> Executor:
    """Run units as jobs of a Slurm cluster, through submitit; without Slurm as local processes.

    Args:
        folder: for scripts and logs of submitit, on a disk that all nodes can access.
        units_per_job: the number of units that one job runs, one after the other.
        cluster: ``"slurm"``, ``"local"``, or None for Slurm where it is installed.
        parameters: for ``submitit.AutoExecutor.update_parameters``, such as ``timeout_min=60``,
            ``slurm_partition="..."``, ``slurm_array_parallelism=100``.

    Raises:
        ValueError: if ``units_per_job`` is not positive.
        ImportError: if submitit is not installed.
    """
    at_least(1, "cluster", "units_per_job", units_per_job)
    submitit = library("cluster", "submitit", SCALE)

    def run(do: Do, units: Sequence[Unit]) -> Iterator[Outcome]:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**parameters)
        parts = [units[k : k + units_per_job] for k in range(0, len(units), units_per_job)]
        jobs = executor.map_array(partial(_one_by_one, do), parts)
        for job in submitit.helpers.as_completed(jobs):
            yield from job.result()

    return run


def _one_by_one(do: Do, units: Sequence[Unit]) -> list[Outcome]:
    return [do(unit) for unit in units]
