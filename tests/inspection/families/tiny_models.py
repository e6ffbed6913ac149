"""Tiny models of the library's families, with parameters that make their layers mix.

Freshly initialised, most of these families look at little more than the current token, and a
test on them would prove little.
"""

from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn

import dsf.inspection
from dsf.testing import redraw
from tests.inspection.families.delta_families import DELTA_RULES
from tests.inspection.families.family import PADDING, VOCABULARY
from tests.inspection.families.gated_families import GATED
from tests.inspection.families.state_space_families import STATE_SPACES

FAMILIES = STATE_SPACES | DELTA_RULES | GATED

# On a CPU, as soon as a sequence is longer than one chunk.
DEFECTIVE = ("nemotron_h", "zamba2")


CONTINUES_CACHES = [
    pytest.mark.filterwarnings("ignore:.*(past_key_values|cache_params).*:FutureWarning"),
    pytest.mark.skipif(
        not hasattr(transformers.DynamicCache, "get_recurrent_state"),
        reason="this release keeps recurrent states in caches of its own",
    ),
]
"""Marks of tests in which recurrent layers start from the state of a cache."""


def build(name: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """A model of the family ``name`` in float32, ready to be inspected."""
    family = FAMILIES[name]
    cls = getattr(transformers, family.model, None)
    if cls is None:
        pytest.skip(f"transformers {transformers.__version__} has no {family.model}")
    config = cls.config_class(**{**family.settings, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config).eval()
    if family.redrawn:
        redraw(model, torch.Generator().manual_seed(seed))
    return model


def inputs(length: int = 21, *, padding: str = "none", seed: int = 1) -> dict[str, Tensor]:
    """Two samples; with padding the first has five tokens fewer, the second two."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(PADDING + 1, VOCABULARY, (2, length), generator=rng)
    mask = torch.ones_like(ids)
    for sample, missing in enumerate((5, 2)):
        if padding == "left":
            mask[sample, :missing] = 0
        if padding == "right":
            mask[sample, length - missing :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def off_diagonal_share(layer: dsf.inspection.InspectedLayer) -> float:
    """The part of a map's Frobenius norm that is not on its diagonal; without a bias's column."""
    map = layer.map()
    of_values = map.unflatten(-1, (map.shape[-2], -1))[..., 0]
    return (of_values.tril(-1).norm() / of_values.norm()).item()


def skip_a_known_defect(name: str) -> None:
    """Old releases compute two families wrongly; what is said about it has a test of its own."""
    if name in DEFECTIVE and is_older_than("5.16"):
        pytest.skip(f"transformers {transformers.__version__} computes {name} wrongly")


def is_older_than(release: str) -> bool:
    return Version(transformers.__version__) < Version(release)
