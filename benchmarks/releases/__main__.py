"""Inspect every family on every release of transformers, and write the table.

    python -m benchmarks.releases [RELEASE ...] [--full]      (make releases)

Writes ``docs/releases.json`` and ``docs/releases.md``. Without releases: those below and the newest
that pip can see. Ends with an error if anything is neither reproduced nor the library's own fault.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.releases.environments import ROOT, newest, python_with, run_in
from benchmarks.releases.page import page, unexplained

RELEASES = ("4.57.6", "5.0.0", "5.8.0", "5.16.0")
PAGE = ROOT / "docs" / "releases.md"


def main() -> None:
    parser = argparse.ArgumentParser(description="Every family on every release of transformers.")
    parser.add_argument("releases", nargs="*", metavar="RELEASE")
    parser.add_argument("--full", action="store_true", help="environments that share nothing")
    options = parser.parse_args()
    releases = options.releases or [*RELEASES, newest()]
    reports = [measured_on(release, full=options.full) for release in releases]
    PAGE.with_suffix(".json").write_text(_lines(reports), encoding="utf-8")
    PAGE.write_text(page(reports), encoding="utf-8")
    for run in unexplained(reports):
        print(f"unexplained: {run}", file=sys.stderr)
    sys.exit(bool(unexplained(reports)))


def measured_on(release: str, *, full: bool = False) -> dict[str, Any]:
    """What every family gave in an environment of this release."""
    python = python_with(release, full=full)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        if run_in(python, "benchmarks.releases.measuring", str(file)) != 0:
            sys.exit(f"{python} -m benchmarks.releases.measuring ended with an error.")
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if report["transformers"] != release:
        sys.exit(f"{python} has transformers {report['transformers']}, not {release}.")
    return report


def _lines(reports: list[dict[str, Any]]) -> str:
    """JSON with one line for every run."""
    parts = []
    for report in reports:
        head = {name: part for name, part in report.items() if name != "runs"}
        runs = ",\n".join(json.dumps(run) for run in report["runs"])
        parts.append(f'{json.dumps(head)[:-1]}, "runs": [\n{runs}\n]}}')
    return "[" + ",\n".join(parts) + "]\n"


if __name__ == "__main__":
    main()
