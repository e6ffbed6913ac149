"""Which files are collected where."""

import os

# What runs in Triton's interpreter has a process of its own, see test_triton.py.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = [] if INTERPRETED else ["test_triton_interpreted.py"]
