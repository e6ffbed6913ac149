"""``check_mixer`` accepts mixers that are right and names what is wrong with the others."""

from dataclasses import dataclass, replace
from importlib import import_module

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import dsf
from dsf.mixers import RWKV4, GatedLinearAttention, Mixer
from dsf.systems.composite import ExplicitMap, StoredRows
from dsf.systems.system import System
from dsf.systems.transition import Diagonal
from tests.mixers.mixer_fields import snake

# The laws run each mixer some two hundred times: without a shape check at every call.
pytestmark = pytest.mark.usefixtures("our_own_errors")

HOLDS, REFUTED = dsf.certify.Verdict.HOLDS_NUMERICALLY, dsf.certify.Verdict.REFUTED


def broken(mixer_or_class, *args, **options):
    """The laws that are refuted, with their witnesses."""
    found = dsf.testing.check_mixer(mixer_or_class, *args, **options)
    assert {one.verdict for one in found} <= {HOLDS, REFUTED}
    return {one.witness["law"]: one.witness for one in found if one.verdict is REFUTED}


def reference(cls):
    return import_module(f"tests.references.{snake(cls.__name__)}").reference


@pytest.mark.parametrize("cls", dsf.mixers.ALL)
def test_every_mixer_keeps_every_law(cls):
    found = dsf.testing.check_mixer(cls, reference(cls))
    assert [one.claim for one in found if one.verdict is not HOLDS] == []
    assert len(found) == 10
    assert all(one.observed is not None for one in found)


def test_one_instance_is_enough():
    mixer = GatedLinearAttention.draw(torch.Generator().manual_seed(4), steps=6)
    single = replace(mixer, **{name: part.float() for name, part in vars(mixer).items()})
    assert broken(single, reference(GatedLinearAttention)) == {}


def test_a_map_without_a_system_is_a_mixer_too():
    """Both ways, so causality is not asked for."""

    @dataclass(frozen=True, kw_only=True, eq=False, repr=False)
    class Both(Mixer):
        weights: Float[Tensor, "*batch time read"]
        value: Float[Tensor, "*batch read channel"]

        def system(self):
            return ExplicitMap(StoredRows(self.weights))

        def signal(self):
            return self.value.unsqueeze(-2)

        @classmethod
        def draw(cls, rng, *, steps):
            def normal(*size):
                return torch.randn(*size, generator=rng, dtype=torch.float64)

            return cls(weights=normal(2, steps, steps), value=normal(2, steps, 3))

    assert broken(Both, causal=False) == {}
    assert broken(Both).keys() == {"causality"}
    reason = "it reads both ways"
    found = dsf.testing.check_mixer(Both, expected_failures={"causality": reason})
    (failed,) = [one for one in found if one.verdict is REFUTED]
    assert (failed.witness["law"], failed.limits) == ("causality", {"expected": reason})


class Forgetful(Diagonal):
    """Composing drops what came earlier."""

    def compose(self, earlier):
        return Forgetful(self.decay + 0 * earlier.decay)

    def window(self, start, stop):
        return Forgetful(super().window(start, stop).decay)

    def delayed(self, lag):
        return Forgetful(super().delayed(lag).decay)

    def flipped(self):
        return Forgetful(super().flipped().decay)


class ComposesWrongly(GatedLinearAttention):
    def system(self):
        A = Forgetful(self.log_decay.exp())
        return System.from_write_and_read(A, write=self.key, read=self.query)


class TwoMinds(StoredRows):
    """What is applied is not what is shown."""

    def apply(self, signal):
        return 1.1 * super().apply(signal)


class AppliesAnother(GatedLinearAttention):
    def system(self):
        rows = (self.query @ self.key.mT * self.log_decay.sum(dim=-1, keepdim=True)).tril()
        return ExplicitMap(TwoMinds(rows))


class LooksAhead(GatedLinearAttention):
    """Keys are measured against the largest of the whole sequence."""

    def system(self):
        return replace(self, key=self.key / self.key.abs().amax(dim=-2, keepdim=True)).plain()

    def plain(self):
        return super().system()


class StopsGradients(GatedLinearAttention):
    def system(self):
        A = Diagonal((0.5 * self.log_decay + 0.5 * self.log_decay.detach()).exp())
        return System.from_write_and_read(A, write=self.key, read=self.query)


class Widens(GatedLinearAttention):
    def signal(self):
        return self.value.unsqueeze(-2) * torch.ones(1, dtype=torch.float64)


class StaysOnTheProcessor(GatedLinearAttention):
    def system(self):
        A = Diagonal(self.log_decay.exp())
        return System.from_write_and_read(A, self.key * torch.ones(4), self.query)


class Ignores(GatedLinearAttention):
    def system(self):
        A = Diagonal(torch.full_like(self.log_decay, 0.9))
        return System.from_write_and_read(A, write=self.key, read=self.query)


class NeedsTwo(GatedLinearAttention):
    def system(self):
        if self.key.shape[-2] < 2:
            raise RuntimeError("too short")
        return super().system()


@pytest.mark.parametrize(
    ("cls", "law", "witness"),
    [
        (ComposesWrongly, "evaluators", {"evaluator", "tokens"}),
        (AppliesAnother, "map", {"tokens"}),
        (LooksAhead, "causality", {"of"}),
        (StopsGradients, "gradients", {"part", "tokens"}),
        (Widens, "number type", {"tokens"}),
        (StaysOnTheProcessor, "device", {"error"}),
        (Ignores, "parts", {"part"}),
        (NeedsTwo, "making", {"error", "tokens"}),
    ],
)
def test_what_is_wrong_is_named(cls, law, witness):
    found = broken(cls)
    assert law in found
    assert witness <= found[law].keys()


def test_the_part_that_is_not_used_is_named():
    found = broken(Ignores)
    assert found["parts"]["part"] == "log_decay"
    assert found["parts"]["figure"] == 0


def test_a_reference_that_says_another_thing_is_found():
    class ReadsLate(RWKV4):
        def system(self):
            return replace(super().system(), reads_before_update=False)

    found = broken(ReadsLate, reference(RWKV4))
    assert found.keys() == {"reference"}
    assert found["reference"]["figure"] > 0.01
    assert broken(RWKV4, lambda mixer: mixer.value[..., :1])["reference"]["figure"] == torch.inf


def test_a_failure_that_does_not_come_is_an_error():
    words = (
        r"GatedLinearAttention was expected to violate 'causality' \(it looks ahead\), but the "
        r"verdict is HO"
    )
    with pytest.raises(ValueError, match=words):
        dsf.testing.check_mixer(
            GatedLinearAttention, expected_failures={"causality": "it looks ahead"}
        )
    with pytest.raises(ValueError, match="'speed'"):
        dsf.testing.check_mixer(GatedLinearAttention, expected_failures={"speed": "slow"})


@pytest.mark.parametrize("given", [torch.nn.Linear(2, 2), int, 3])
def test_what_is_no_mixer_is_refused(given):
    with pytest.raises(TypeError, match="'mixer_or_class'"):
        dsf.testing.check_mixer(given)
