"""Shares by gradient rank the edges of the embedded text models as cuts do."""

import pytest

from dsf.models import folder
from experiments.predicted_cuts.run import PROMPTS, correlations, edges_into_the_last_token

pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["text_llama", "text_mamba"])
def test_gradients_rank_edges_as_cuts_do(name):
    found = correlations(edges_into_the_last_token(folder(name), PROMPTS[:1]))
    assert found["gradient"]["rank correlation"] >= 0.9
    assert found["gradient"]["rank correlation"] > found["held"]["rank correlation"]
