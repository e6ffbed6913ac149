"""Inspect every model of the list, judge what dsf says of it, and write the page.

    python -m benchmarks.any_code [PATTERN ...] [--again]      (make any-code)

Makes the environment of the packages, and runs ``benchmarks.any_code.measuring`` in it.
"""

import sys

from benchmarks.any_code.environment import python_with_packages
from benchmarks.releases.environments import run_in

if __name__ == "__main__":
    sys.exit(run_in(python_with_packages(), "benchmarks.any_code.measuring", *sys.argv[1:]))
