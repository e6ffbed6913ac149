"""Tests of models, kernels, adapters and mixers that were written elsewhere."""

from dsf.testing.mixers import check_mixer
from dsf.testing.models import assert_layer_exact, check_adapter

__all__ = ["assert_layer_exact", "check_adapter", "check_mixer"]
