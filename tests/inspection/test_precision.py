"""A float64 model is float64 inside too, and only such a model is meddled with."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.capture.precision import guarded
from tests.any_code.modules import Attention, drawn, merged, tokens

SEEN = []  # no attribute of the model, which is as it was afterwards


class Casts(nn.Module):
    """Rounds to narrower types in every way that models do."""

    def __init__(self):
        super().__init__()
        self.mixer = nn.GRU(3, 4, batch_first=True)

    def types(self, x):
        return [
            x.float().dtype,
            x.to(torch.float32).dtype,
            x.type(torch.float32).dtype,
            x.softmax(dim=-1, dtype=torch.float32).dtype,
            nn.functional.softmax(x, dim=-1, dtype=torch.float32).dtype,
            torch.zeros(2).dtype,
            torch.ones(2, dtype=torch.float32).dtype,
        ]

    def halves(self, x):
        return [x.half().dtype, x.bfloat16().dtype, x.to(torch.bfloat16).dtype]

    def forward(self, x):
        SEEN.append([*self.types(x), *self.halves(x)])
        return self.mixer(x)


def test_what_a_model_sees_inside():
    model, x = Casts(), torch.randn(1, 5, 3)
    SEEN.clear()
    dsf.inspect(model, x, checks="none")
    dsf.inspect(model.double(), x.double(), checks="none")
    halves = [torch.float16, torch.bfloat16, torch.bfloat16]
    assert model.halves(x.double()) == halves
    assert [[torch.float32] * 7 + halves, [torch.float64] * 10] == SEEN
    assert model.types(x.double()) == [torch.float32] * 7


class Narrow(Attention):
    """A float32 model whose values and weights meet in a narrower type."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        q, k, v = self.parts(x)
        weights = (q @ k.mT).softmax(dim=-1)
        return self.o(merged((weights.to(self.dtype) @ v.to(self.dtype)).float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_product_inside_of_a_model_is_rounding(dtype):
    (layer,) = dsf.inspect(drawn(Narrow(dtype)), tokens())
    assert layer.formula < 1e-12
    assert torch.finfo(dtype).eps / 10 < layer.rounding < torch.finfo(dtype).eps * 4


def test_the_default_type_is_put_back():
    with guarded(nn.Linear(1, 1).double()):
        assert torch.get_default_dtype() is torch.float64
    assert torch.get_default_dtype() is torch.float32


def test_the_tolerance_is_the_same_for_every_number_type():
    x = torch.randn(1, 5, 3)
    single, exact = (
        dsf.inspect(nn.GRU(3, 4, batch_first=True), x, exact=each)[0] for each in (False, True)
    )
    assert (single.tolerance, exact.tolerance) == (1e-12, 1e-12)
    assert max(single.formula, exact.formula) < 1e-14
    assert 1e-9 < single.rounding == single.error < 1e-6
    assert exact.rounding == 0
    assert single.compared_with == exact.compared_with == "its module in float64"
