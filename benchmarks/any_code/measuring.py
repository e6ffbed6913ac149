"""Inspect every model of the list, judge what dsf says of it, and write the page.

    python -m benchmarks.any_code.measuring [PATTERN ...] [--again]

Every model runs in a process of its own, with limits of time and memory. A result is kept in
``.any_code/`` while neither dsf nor the way of judging changes, so that a run that was stopped goes
on where it was; ``--again`` forgets them, after the making of a model was changed.
``docs/any_code.json`` and ``docs/any_code.md`` are written at the end, unless patterns choose some
of the models. Ends with an error if anything is wrong, missed or an error.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import traceback
import warnings
from contextlib import redirect_stdout, suppress
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.any_code.environment import PINS, ROOT
from benchmarks.any_code.inspecting import outcome
from benchmarks.any_code.models import MODELS
from benchmarks.any_code.models.entry import Model
from benchmarks.any_code.page import page

KEPT = ROOT / ".any_code"
PAGE = ROOT / "docs" / "any_code.md"
FORKED = multiprocessing.get_context("fork")
MEMORY = 6 << 30
"""Bytes that a model may take for its data."""
SECONDS = 300
"""What a model may take: building, inspection and judgement together."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Inspect models of public packages.")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help='such as "timm: *"')
    parser.add_argument("--again", action="store_true", help="keep nothing of an earlier run")
    options = parser.parse_args()
    torch.set_num_threads(1)  # whoever is forked would wait for threads that it does not have
    chosen = [one for one in MODELS if _is_chosen(one, options.patterns)]
    if options.again:
        shutil.rmtree(KEPT, ignore_errors=True)
    for _, group in groupby(chosen, key=lambda entry: entry.package):
        _measure(list(group))
    records = [_kept(entry) or _failed(entry, "its package ended its process") for entry in chosen]
    if not options.patterns:
        lines = ",\n".join(json.dumps(record) for record in records)
        PAGE.with_suffix(".json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        PAGE.write_text(page(records), encoding="utf-8")
    bad = [one for one in records if one["outcome"] in ("wrong", "missed", "error")]
    for one in bad:
        print(f"{one['outcome']}: {one['package']}: {one['model']}", file=sys.stderr)
    sys.exit(bool(bad))


def _is_chosen(entry: Model, patterns: list[str]) -> bool:
    return not patterns or any(fnmatch(entry.key, pattern) for pattern in patterns)


def _measure(entries: list[Model]) -> None:
    """Measure the models of one package, which is imported once; each runs in a process forked."""
    wanted = [entry for entry in entries if _kept(entry) is None]
    if not wanted:
        return
    package = FORKED.Process(target=_measure_each, args=(wanted,))
    package.start()
    package.join()


def _measure_each(entries: list[Model]) -> None:
    warnings.simplefilter("ignore")
    with redirect_stdout(io.StringIO()), suppress(Exception):
        entries[0].build()
    KEPT.mkdir(exist_ok=True)
    for entry in entries:
        record = _measured(entry) | {"commit": _commit()}
        _file(entry).write_text(json.dumps(record | {"state": _state(entry)}), encoding="utf-8")
        print(f"{entry.key}: {record['outcome']}", flush=True)


def _commit() -> str:
    """The commit that is checked out, in short; empty outside of a checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip()


def _file(entry: Model) -> Path:
    return KEPT / f"{hashlib.sha256(entry.key.encode()).hexdigest()[:16]}.json"


def _kept(entry: Model) -> dict[str, Any] | None:
    """The record of one model, where nothing that it depends on has changed since."""
    if not _file(entry).is_file():
        return None
    record: dict[str, Any] = json.loads(_file(entry).read_text(encoding="utf-8"))
    return record if record.pop("state") == _state(entry) else None


def _failed(entry: Model, reason: str) -> dict[str, Any]:
    record = {"package": entry.package, "model": entry.name, "outcome": "error"}
    return record | {"reason": reason}


def _state(entry: Model) -> str:
    """What a result depends on: dsf, the packages, the way of judging, where the tokens are."""
    here = PINS.parent
    judge = [*sorted(here.glob("*.py")), here / "models" / "entry.py"]
    unseen = {"measuring.py", "page.py", "__main__.py", "environment.py"}
    files = [*sorted((ROOT / "dsf").rglob("*.py")), PINS]
    files += [file for file in judge if file.name not in unseen]
    tokens = (entry.source, entry.argument, entry.axes, entry.sample, entry.ends, *entry.further)
    parts = [file.read_bytes() for file in files] + [repr(tokens).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _measured(entry: Model) -> dict[str, Any]:
    """The record of one model, out of a process that is ended where it takes too long."""
    result = _file(entry).with_suffix(".made")  # its own: another run may measure other models
    result.unlink(missing_ok=True)
    child = FORKED.Process(target=_write, args=(entry, result))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        return _failed(entry, f"it took more than {SECONDS} s")
    if not result.is_file():
        return _failed(entry, f"its process ended by itself, with {child.exitcode}")
    record: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return record


def _write(entry: Model, result: Path) -> None:
    """In a process of its own: measure one model under the limit of memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    with redirect_stdout(io.StringIO()):
        try:
            record = outcome(entry)
        except Exception as error:  # the model itself, or this benchmark
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            record = _failed(entry, f"outside of dsf: {reason}")
            record["where"] = traceback.format_exc()[-1500:]
    result.write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
