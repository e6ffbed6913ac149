"""``measure_prompts``: measures every layer of a model on many prompts; ``work`` runs a unit.

An executor is a function from ``do`` and units to outcomes, in the order in which they finish: in
this process, in several, or as jobs of a cluster. The results do not depend on it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection import inspect, memory_forecast
from dsf.inspection.choice import Chosen
from dsf.inspection.model_input import number_type
from dsf.inspection.results.measurements import BY_DEFAULT, LONGEST_FOR_RANKS, QUANTITIES, values
from dsf.inspection.results.quantities import RANK
from dsf.inspection.results.table import Table
from dsf.jobs.storage import UNITS, LayerFacts, Plan, Running, Unit, claim, finish, is_kept
from dsf.jobs.summaries import summary
from dsf.loading import LoadedModel, LoadError, file_hashes, load_model, load_skeleton
from dsf.loading.folder import check_holds_no_model
from dsf.runtime.argument_checks import checked
from dsf.runtime.files import alone, remove_drafts, write_inside
from dsf.runtime.first_use import library
from dsf.runtime.shapes import at_least
from dsf.runtime.threads import limited_to

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


OUT_OF_MEMORY = "out of memory"


def work(plan: Plan, folder: Path, unit: Unit, *, threads: int = 1) -> Outcome:
    """Run a unit unless it is finished; return the reason where it failed.

    Any exception becomes text, so that a prompt which cannot be measured does not stop the others.
    """
    if is_kept(folder, unit):
        return unit, None
    try:
        with limited_to(threads):
            _measure(plan, folder, unit)
    except Exception as error:
        kind = OUT_OF_MEMORY if is_out_of_memory(error) else type(error).__name__
        return unit, f"{kind}: {error}"
    return unit, None


def _measure(plan: Plan, folder: Path, unit: Unit) -> None:
    ids = torch.tensor([plan.prompts[number] for number in unit.prompts])
    loaded = _loaded(plan.model, plan.how, plan.layerwise)
    found = inspect(
        loaded.model,
        input_ids=ids.to(plan.how.device),
        tolerance=plan.tolerance,
        layers=plan.layers,
        heads=plan.heads,
        strict=True,
    )
    quantities = {
        name: (BY_DEFAULT if name in plan.left_out else QUANTITIES)[name]
        for name in plan.quantities
    }
    measured = []
    for layer in found:
        numbers, unmeasured = values(layer.system, quantities)
        facts = LayerFacts(layer.name, layer.family, layer.axes, unmeasured, layer.heads)
        measured.append((facts, numbers))
    finish(folder, unit, measured, loaded.notes)


@lru_cache(maxsize=1)
def _loaded(model: str, how: Running, mapped: bool) -> LoadedModel:
    """The model, loaded once in every worker."""
    dtype = number_type(how.dtype, "measure_prompts")
    loaded = load_model(model, revision=how.revision, dtype=dtype, mapped=mapped)
    loaded.model.to(how.device)
    return loaded


def check_first(plan: Plan, units: Sequence[Unit], *, loads: bool) -> None:
    """Refuse a job whose largest unit does not fit into the memory, before any unit runs.

    Unless this process ``loads`` the model to run units itself, its sizes are read without weights.
    """
    if not units:
        return
    samples, steps = max(
        ((len(unit.prompts), len(plan.prompts[unit.prompts[0]])) for unit in units),
        key=lambda size: size[0] * size[1],
    )
    ids = torch.zeros(samples, steps, dtype=torch.long)
    try:
        model = (
            _loaded(plan.model, plan.how, plan.layerwise).model
            if loads
            else load_skeleton(plan.model, revision=plan.how.revision)
        )
    except LoadError:
        if loads:
            raise
        return  # such as quantised weights: the units themselves tell it
    expected = memory_forecast(model, input_ids=ids)
    if expected is not None:
        expected.check(f"{plan.model}, {samples} prompts of {steps} tokens at a time")


Progress = Callable[[int, int], None]
SHOWN = 3


class JobError(RuntimeError):
    """Some units failed; the others are finished, and the next call runs only the failed ones."""


class JobMemoryError(JobError, MemoryError):
    """The same where every unit that failed ran out of memory."""


@checked
def measure_prompts(
    model: str | Path,
    prompts: Sequence[Sequence[int]],
    folder: str | Path,
    *,
    quantities: Sequence[str] | None = None,
    batch: int = 1,
    layerwise: bool = False,
    tolerance: float | None = None,
    threads: int = 1,
    layers: Chosen = None,
    heads: Chosen = None,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    executor: Executor = in_process,
    progress: Progress | None = None,
) -> Table:
    """Measure every layer and head of a checkpoint on every prompt, as files in ``folder``.

    A unit is up to ``batch`` consecutive prompts of one length. Finished units are not repeated, so
    that a job which was stopped, killed or run on several machines can be resumed. The files are
    the same, byte for byte, whichever executor was used. Every layer is compared with its captured
    output, as in ``dsf.inspect``.

    Args:
        model: the folder of a checkpoint or a hub id; every worker loads it once.
        prompts: the token ids of every prompt.
        folder: a folder for this job alone, with ``job.json``, ``units/`` and ``summary.csv``.
        quantities: what to measure; names of ``dsf.inspection.results.measurements.QUANTITIES``. By
            default all but the rank of maps of more than 1,024 tokens (``Inspection.measure``).
        batch: the largest number of prompts that run through the model together.
        layerwise: leave the weights in their files, for models larger than the memory.
        tolerance: the largest relative error of a layer; by default one that suits its dtype.
        threads: of a worker. With more than one, files are equal to rounding, not byte for byte.
        layers, heads: which layers to measure, and which heads or channels of each, as for
            ``dsf.inspect``; all by default.
        dtype, device, revision: as for ``dsf.inspect``, by their names such as ``"bfloat16"``; the
            first two not with ``layerwise``.
        executor: ``in_process``, ``processes(n)``, ``joblib_backend(...)`` or ``cluster(...)``.
        progress: called with the number of finished units and that of all units.

    Returns:
        ``summary(folder)``.

    Raises:
        InspectionError: if there is no number type ``dtype``.
        TypeError: if ``layers`` or ``heads`` holds neither numbers, names nor slices, or a prompt
            something else than token numbers.
        ValueError: if an argument is out of range, the folder holds another job, a model, a link,
            or files with a job's names that no job wrote, or another process is writing there.
        LoadError: if the checkpoint is refused.
        InspectionMemoryError: if the largest unit would take more memory than there is;
            raised before the first one runs.
        JobError: if some units failed, after all others are finished; ``JobMemoryError`` where all
            of these ran out of memory.

    >>> import dsf, tempfile
    >>> from dsf.models import folder
    >>> place = tempfile.mkdtemp()
    >>> table = dsf.jobs.measure_prompts(folder("mamba"), [[1, 2, 3], [4, 5, 6]], place)
    >>> table.where(quantity="negative_share")[0]["count"]
    2
    """
    at_least(1, "measure_prompts", "threads", threads)
    at_least(1, "measure_prompts", "batch", batch)
    how = Running(dtype=dtype, device=device, revision=revision)
    if layerwise and (dtype is not None or device is not None):
        raise ValueError(
            "measure_prompts: 'layerwise' expected no dtype and no device, for which the weights "
            "are copied. Leave them out."
        )
    names = tuple(QUANTITIES if quantities is None else quantities)
    _check(prompts, names, tolerance)
    configuration, weights = file_hashes(model, revision=revision)
    is_long = max(map(len, prompts)) > LONGEST_FOR_RANKS
    plan = Plan(
        model=str(model),
        how=how,
        weights=weights,
        configuration=configuration,
        prompts=tuple(tuple(int(token) for token in prompt) for prompt in prompts),
        quantities=names,
        batch=batch,
        layerwise=layerwise,
        tolerance=tolerance,
        layers=layers,
        heads=heads,
        left_out=(RANK,) if quantities is None and is_long else (),
    )
    place = Path(folder)
    check_holds_no_model(place, "job")
    place.mkdir(parents=True, exist_ok=True)
    with alone(place):
        claim(place, plan)
        _finish(plan, place, partial(work, plan, place, threads=threads), executor, progress)
        table = summary(place)
        write_inside(place, "summary.csv", table.to_csv().encode())
    return table


def _finish(plan: Plan, place: Path, do: Do, executor: Executor, progress: Progress | None) -> None:
    units = plan.units
    missing = [unit for unit in units if not is_kept(place, unit)]
    check_first(plan, missing, loads=executor is in_process)
    done, failed = len(units) - len(missing), {}
    for unit, trouble in executor(do, missing):
        done += 1
        if trouble is not None:
            failed[unit.name] = trouble
        if progress is not None:
            progress(done, len(units))
    if failed:
        reasons = "; ".join(f"{name}: {trouble}" for name, trouble in list(failed.items())[:SHOWN])
        more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        message = f"{len(failed)} of {len(units)} units failed. {reasons}{more}"
        if all(trouble.startswith(OUT_OF_MEMORY) for trouble in failed.values()):
            raise JobMemoryError(message)
        raise JobError(message)
    remove_drafts(place, "")
    remove_drafts(place, UNITS)


def _check(
    prompts: Sequence[Sequence[int]], quantities: tuple[str, ...], tolerance: float | None
) -> None:
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(
            f"measure_prompts: tolerance is {tolerance}, but it must be a relative error between 0 "
            "and 1."
        )
    empty = [number for number, prompt in enumerate(prompts) if not len(prompt)]
    if not prompts or empty:
        what = f"prompt {empty[0]} has no token" if empty else "got no prompts"
        raise ValueError(f"measure_prompts: {what}; pass at least one token id for each prompt.")
    unknown = sorted(set(quantities) - set(QUANTITIES))
    if unknown or not quantities:
        raise ValueError(
            f"measure_prompts: quantities has {unknown or 'no entry'}; choose among "
            f"{', '.join(QUANTITIES)}."
        )
