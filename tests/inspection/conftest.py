"""Which files are collected where."""

import os
from importlib.util import find_spec

import torch

# Without a graphics card they run in Triton's interpreter, in a process of their own:
# test_fla_layers.py.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_A_CARD = torch.cuda.is_available() and find_spec("fla") is not None
collect_ignore = [] if INTERPRETED or ON_A_CARD else ["test_fla_layers_interpreted.py"]
