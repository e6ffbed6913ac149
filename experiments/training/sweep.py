"""Many runs, each finished once: one file a run, so that whatever stops the sweep costs one run."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from dsf.runtime.files import replace_file

Setting = TypeVar("Setting")
Result = dict[str, Any]


def sweep(
    run: Callable[[Setting], Result],
    settings: Mapping[str, Setting],
    folder: Path,
    *,
    workers: int = 1,
) -> None:
    """Do what ``folder`` does not hold yet, and print a line for each run that finishes.

    Args:
        run: one run from its setting to what is kept of it, as JSON can hold it. A function of a
            module, since other processes call it.
        settings: the runs by name; each name becomes ``<name>.json`` in ``folder``.
        folder: where results go. A file is there whole or not at all.
        workers: runs at a time, each in a process of its own with one thread.

    Raises:
        ValueError: if ``workers`` is not positive.
        RuntimeError: after all other runs, if some failed; the next sweep tries these again.
    """
    if workers < 1:
        raise ValueError(f"sweep: workers is {workers}; at least one has to do the runs.")
    missing = {
        name: setting for name, setting in settings.items() if not _file(folder, name).exists()
    }
    print(f"{len(settings) - len(missing)} of {len(settings)} runs are there already", flush=True)
    started, failed = time.monotonic(), {}
    for done, (name, result) in enumerate(_finished(run, missing, folder, workers), start=1):
        if isinstance(result, Exception):
            failed[name] = result
        minutes = (time.monotonic() - started) / 60
        left = minutes / done * (len(missing) - done)
        print(f"[{done}/{len(missing)}, {left:.0f} min left] {name}: {result}", flush=True)
    if failed:
        named = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise RuntimeError(f"sweep: {len(failed)} of {len(missing)} runs failed. {named}")


def gather(settings: Mapping[str, object], folder: Path) -> dict[str, Result]:
    """The results that are there, by name, in the order of ``settings``."""
    files = {name: _file(folder, name) for name in settings}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name, file in files.items()
        if file.exists()
    }


def write_json(path: Path, content: object) -> None:
    """Put ``content`` into ``path``, whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _finished(
    run: Callable[[Setting], Result], missing: Mapping[str, Setting], folder: Path, workers: int
) -> Iterator[tuple[str, Result | Exception]]:
    do = partial(_do, run, folder)
    if workers == 1:
        yield from ((name, do(name, setting)) for name, setting in missing.items())
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
    )
    try:
        pending = {pool.submit(do, name, setting): name for name, setting in missing.items()}
        yield from ((pending[future], future.result()) for future in as_completed(pending))
    finally:
        pool.shutdown(cancel_futures=True)


def _do(
    run: Callable[[Setting], Result], folder: Path, name: str, setting: Setting
) -> Result | Exception:
    """One run. Its file is written where it ran: it stays when the sweep is gone."""
    try:
        result = run(setting)
    except Exception as error:
        return error
    write_json(_file(folder, name), result)
    return result


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
