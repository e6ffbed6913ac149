"""What a token erased, in logits: predicted by the gradient, measured by protecting the trace."""

import numpy as np
import pytest
import torch

import dsf
from dsf import edits
from dsf.models import folder, recall

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=["qwen3_next", "mamba2"])
def attributed(request):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder(request.param)).double()
    drawn = recall.draw(torch.Generator().manual_seed(2), 2)
    asked = int((drawn.targets[1] != recall.SILENT).nonzero()[-1])
    target = int(drawn.targets[1, asked])
    share = dsf.stack(model, input_ids=drawn.tokens).attribute(target, position=asked)
    return model, drawn.tokens, target, asked, share


def test_protection_changes_the_logit_as_predicted(attributed):
    model, ids, target, asked, share = attributed
    found = [record for record in share.forgotten(5, sample=1) if "share" in record]
    assert len(found) == 5
    measured = [
        dsf.intervene(
            model,
            input_ids=ids,
            edits=[edits.Protect(one["layer"], key=one["key"], from_=one["token"])],
        ).effect(target, position=asked)[1]
        for one in found
    ]
    predicted = [one["share"] for one in found]
    assert np.corrcoef(predicted, measured)[0, 1] >= 0.9
    assert np.abs(np.array(predicted) - measured).max() < 0.5 * max(map(abs, predicted))


def test_shares_are_sorted_and_split(attributed):
    *_, share = attributed
    found = share.forgotten(5)
    sizes = [abs(one["share"]) for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(one["key"] < one["token"] for one in found)
    assert all(one["decay"] + one["overwriting"] == pytest.approx(one["share"]) for one in found)
    with pytest.raises(ValueError, match="count"):
        share.forgotten(0)
    with pytest.raises(IndexError, match="sample"):
        share.forgotten(1, sample=2)
