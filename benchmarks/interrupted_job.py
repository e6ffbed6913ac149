"""A job of three joblib processes, killed at random five times, compared with one left alone.

    python benchmarks/interrupted_job.py

Prints what was there after each kill, and fails unless both jobs end with the same bytes.
"""

import filecmp
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dsf
from dsf.jobs.summaries import finished
from dsf.models import folder

KILLS, WORKERS = 5, 3
PROMPTS = [[k % 30, (7 * k) % 30, (k * k) % 30, 5, 1] * 8 for k in range(120)]


def job(place: Path, workers: int) -> None:
    """The same job, by one process or several."""
    executor = dsf.jobs.processes(workers) if workers > 1 else dsf.jobs.in_process
    dsf.jobs.measure_prompts(folder("qwen3_next"), PROMPTS, place, batch=2, executor=executor)


def count(place: Path) -> int:
    """Finished units."""
    return len(list(finished(place))) if (place / "job.json").exists() else 0


def main() -> None:
    """Whole, killed, compared."""
    if len(sys.argv) > 1:
        job(Path(sys.argv[1]), WORKERS)
        return
    pause = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        started = time.monotonic()
        job(whole, 1)
        print(f"left alone: {len(list(finished(whole)))} units, {time.monotonic() - started:.0f} s")
        there = 0
        for kill in range(KILLS):
            run = [sys.executable, __file__, str(killed)]
            process = subprocess.Popen(run, start_new_session=True)
            before = there
            while there <= before:
                time.sleep(0.1)
                there = count(killed)
            time.sleep(pause.uniform(0, 1))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            there = count(killed)
            print(f"kill {kill + 1}: {there} units are there", flush=True)
        job(killed, WORKERS)
        files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
        same = [filecmp.cmp(whole / name, killed / name, shallow=False) for name in files]
        extra = sum(path.is_file() for path in killed.rglob("*")) - len(files)
        print(f"{sum(same)} of {len(files)} files equal byte for byte, {extra} files too many")
        sys.exit(0 if all(same) and not extra else 1)


if __name__ == "__main__":
    main()
