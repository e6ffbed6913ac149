"""Gradients of a logit in the coefficients of mixers: literal loops, exact sums, every family."""

import copy
from dataclasses import dataclass, fields, replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import dsf
from dsf.inspection.capture.precision import guarded
from dsf.inspection.errors import InspectionError
from dsf.inspection.whole.stages import Chain
from dsf.mixers import Mixer, SelectiveStateSpace
from dsf.models import folder, recall
from tests.attribution.family_stacks import stack_of_family
from tests.inspection import literal_llama
from tests.inspection.families import tiny_models
from tests.mixers.mixer_fields import snake

transformers = pytest.importorskip("transformers")


def prompt(samples=2, length=16):
    rng = torch.Generator().manual_seed(0)
    return recall.draw(rng, samples, pairs=length // 4, length=length).tokens


def close(ours, theirs, *, within=1e-10):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max() <= within * theirs.abs().max().clamp_min(1e-12)


def summed(shares):
    return shares.flatten(1).sum(dim=1)


def tensors(mixer):
    parts = {field.name: getattr(mixer, field.name) for field in fields(mixer)}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex())
    }


def by_the_paper(mixer, moved):
    """The gradient through the loop of the paper, of one sample after the other."""
    module = import_module(f"tests.references.{snake(type(mixer).__name__)}")
    leaves = {name: part.detach().clone() for name, part in tensors(mixer).items()}
    if "bias" in leaves and leaves["bias"].shape[-1:] == leaves["bias"].shape[-2:-1]:
        padding = leaves["bias"].isinf().all(dim=-1)  # the formula divides by zero there
        leaves["bias"][padding] = 0
        assert not moved[padding].any()
    leaves = {name: part.requires_grad_() for name, part in leaves.items()}
    response = module.reference(replace(mixer, **leaves))
    numbers = (response * moved).flatten(1).sum(dim=1)
    found = {name: [] for name in leaves}
    for number in numbers:
        slopes = torch.autograd.grad(
            number, [*leaves.values()], retain_graph=True, allow_unused=True
        )
        for name, slope in zip(leaves, slopes, strict=True):
            found[name].append(torch.zeros_like(leaves[name]) if slope is None else slope)
    return {name: torch.stack(several) for name, several in found.items()}


@pytest.mark.sampled(count=9)
@pytest.mark.parametrize("name", sorted(tiny_models.FAMILIES))
def test_the_first_and_the_last_mixer_of_every_recurrent_family(name):
    stack = stack_of_family(name)
    share = stack.attribute(5, position=-1)
    for step in (stack.mixers[0], stack.mixers[-1]):
        mixer, found = step.whole.mixer, share.by_coefficients(step.name)
        size = found["value"].abs().flatten(1).sum(dim=1) + 1e-12
        assert ((summed(found["value"]) - share.total[step.name]).abs() <= 1e-10 * size).all()
        mixed = share._mixed[step.name]
        moved, values = mixed.moved(mixed.adjoint), mixed.values()
        literal = by_the_paper(mixer, moved)
        assert set(found) == set(literal)
        for coefficient, slopes in literal.items():
            entries = values if coefficient == "value" else getattr(mixer, coefficient)
            expected = slopes * torch.where(entries.isinf(), 0, entries)
            if found[coefficient].ndim < expected.ndim:
                expected = expected.sum(dim=0)
            assert close(found[coefficient], expected, within=1e-9), coefficient


class Selective(nn.Module):
    """A selective recurrence as it is written: four channels, three states for each."""

    def __init__(self):
        super().__init__()
        self.value, self.step, self.out = (nn.Linear(4, 4) for _ in range(3))
        self.write, self.read = nn.Linear(4, 3), nn.Linear(4, 3)
        self.pole = nn.Parameter(-torch.rand(4, 3) - 0.2)
        self.feedthrough = nn.Parameter(torch.randn(4))

    def coefficients(self, x):
        return {
            "step": softplus(self.step(x)),
            "pole": self.pole,
            "write": self.write(x),
            "read": self.read(x),
            "feedthrough": self.feedthrough,
        }

    def scanned(self, value, step, pole, write, read, feedthrough):
        state, out = torch.zeros(len(value), 4, 3, dtype=value.dtype), []
        for t in range(value.shape[1]):
            now = step[:, t, :, None]
            state = (now * pole).exp() * state + now * value[:, t, :, None] * write[:, t, None]
            out.append((state * read[:, t, None]).sum(-1) + feedthrough * value[:, t])
        return self.out(torch.stack(out, dim=1))

    def forward(self, x):
        return self.scanned(self.value(x), **self.coefficients(x))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Selective() for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def read(layer):
    x, weights = layer.arguments["x"], layer.weights
    return SelectiveStateSpace(
        value=layer.project("value", x),
        step=softplus(layer.project("step", x)),
        pole=weights["pole"],
        write=layer.project("write", x),
        read=layer.project("read", x),
        feedthrough=weights["feedthrough"],
    )


def adapter(reading=read):
    return dsf.Adapter(
        families={f"{Selective.__module__}.Selective": "selective"},
        read=reading,
        enter=lambda layer: Chain((layer.projection("value"),)),
        leave=lambda layer, _: Chain((layer.projection("out"),)),
        takes="x",
    )


@pytest.fixture(scope="module")
def selective():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Two().double(), torch.randn(3, 6, 4, dtype=torch.float64)
    return model, x


def test_a_recurrence_of_two_layers_that_is_written_out(selective):
    """The slope of the logit in a factor of every entry; coefficients are those of the run."""
    model, x = selective
    share = dsf.stack(model, x, adapters=[adapter()]).attribute(2, against=0, position=4)
    for sample in range(3):
        stream, factors = x[sample : sample + 1], []
        for block in model.blocks:
            held = {name: part.detach() for name, part in block.coefficients(stream).items()}
            ones = {name: torch.ones_like(part).requires_grad_() for name, part in held.items()}
            factors.append(ones)
            scaled = {name: part * ones[name] for name, part in held.items()}
            stream = stream + block.scanned(block.value(stream), **scaled)
        logits = model.head(stream)[0, 4]
        for layer, ones in enumerate(factors):
            slopes = torch.autograd.grad(logits[2] - logits[0], [*ones.values()], retain_graph=True)
            found = share.by_coefficients(f"blocks.{layer}")
            for name, slope in zip(ones, slopes, strict=True):
                own = slope[0] if name in ("step", "write", "read") else slope
                torch.testing.assert_close(found[name][sample], own, msg=f"{layer} {name}")


def test_sums_over_coefficients_in_which_a_recurrence_is_linear(selective):
    """Twice the read vector and feedthrough is twice the response; a step writes and forgets."""
    model, x = copy.deepcopy(selective)
    for part in (part for block in model.blocks for part in (block.value, block.out)):
        part.bias.data.zero_()  # what comes from biases is no part of the total
    share = dsf.stack(model, x, adapters=[adapter()]).attribute(1)
    for layer, total in ((f"blocks.{k}", share.total[f"blocks.{k}"]) for k in range(2)):
        sums = {name: summed(part) for name, part in share.by_coefficients(layer).items()}
        torch.testing.assert_close(sums["value"], total)
        torch.testing.assert_close(sums["read"] + sums["feedthrough"], total)
        torch.testing.assert_close(sums["write"] + sums["feedthrough"], total)
        torch.testing.assert_close(sums["write"] + sums["pole"], sums["step"])
        assert min(part.abs().min() for part in sums.values()) > 1e-6


def test_queries_and_keys_of_a_llama_that_is_written_out():
    tokens = prompt()
    stack = dsf.stack(folder("llama"), input_ids=tokens)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder("llama")).double()
    share = stack.attribute(7, position=11)
    stream, factors = stack.hidden[0], []
    cos, sin = model.model.rotary_emb(stream, torch.arange(tokens.shape[1])[None])
    for block in model.model.layers:
        weights = dict(block.state_dict())
        normed = literal_llama.rms(stream, weights["input_layernorm.weight"]).detach()
        vectors = []
        for letter in "qk":
            wide = normed @ weights[f"self_attn.{letter}_proj.weight"].T
            by_head = wide.unflatten(-1, (2, -1)).transpose(1, 2)
            first, second = by_head.chunk(2, dim=-1)
            vectors.append(by_head * cos + torch.cat([-second, first], dim=-1) * sin)
        ones = [torch.ones_like(part).requires_grad_() for part in vectors]
        factors.append(ones)
        query, key = (part * one for part, one in zip(vectors, ones, strict=True))
        scores = query @ key.mT / key.shape[-1] ** 0.5
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        stream = literal_llama.block(weights, stream, scores.masked_fill(future, -1e30).softmax(-1))
    logit = literal_llama.rms(stream, model.model.norm.weight)[:, 11] @ model.lm_head.weight[7]
    torch.testing.assert_close(share.value, logit.detach(), rtol=1e-6, atol=0)
    for mixer, ones in zip(stack.mixers, factors, strict=True):
        found = share.by_coefficients(mixer.name)
        slopes = torch.autograd.grad(logit.sum(), ones, retain_graph=True)
        for name, slope in zip(("query", "key"), slopes, strict=True):
            torch.testing.assert_close(found[name], slope, rtol=1e-5, atol=1e-6)
        # A score counts its query and its key once each, and to raise all of a row does nothing.
        torch.testing.assert_close(summed(found["query"]), summed(found["key"]))


def test_a_key_that_is_hidden_moves_nothing():
    tokens = prompt()
    shown = torch.ones_like(tokens)
    shown[0, :3] = 0
    stack = dsf.stack(folder("llama"), input_ids=tokens, attention_mask=shown)
    share = stack.attribute(7)
    for mixer in stack.mixers:
        for name, part in share.by_coefficients(mixer.name).items():
            assert part.isfinite().all(), name
            assert name == "bias" or not part[0, :, :3].any(), name


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Plain(Mixer):
    """The same recurrence without a word about its axes; the pole looks like three samples."""

    value: Tensor
    step: Tensor
    pole: Tensor
    write: Tensor
    read: Tensor
    feedthrough: Tensor

    def system(self):
        return SelectiveStateSpace(**(vars(self) | {"pole": self.pole.mT})).system()

    def signal(self):
        return self.value.mT[..., None, None]

    @classmethod
    def draw(cls, rng, *, steps):
        return cls(**tensors(SelectiveStateSpace.draw(rng, steps=steps)))


def test_mixers_without_named_axes_have_the_same(selective):
    model, x = selective
    expected = dsf.stack(model, x, adapters=[adapter()]).attribute(2)

    def without_names(layer):
        parts = tensors(read(layer))
        return Plain(**(parts | {"pole": parts["pole"].mT}))

    share = dsf.stack(model, x, adapters=[adapter(without_names)]).attribute(2)
    for layer in ("blocks.0", "blocks.1"):
        found, same = share.by_coefficients(layer), expected.by_coefficients(layer)
        for name, part in same.items():
            own = part.mT if name == "pole" else part
            torch.testing.assert_close(found[name], own, msg=name)
    assert found["pole"].shape == (3, 3, 4)


def test_the_table_has_the_sums_of_all_layers(selective):
    model, x = selective
    share = dsf.stack(model, x, adapters=[adapter()]).attribute(2)
    table = share.coefficients(sample=1)
    assert len(table) == 12
    sizes = [record["magnitude"] for record in table]
    assert sizes == sorted(sizes, reverse=True)
    for record in table:
        entries = share.by_coefficients(record["layer"])[record["coefficient"]][1]
        assert record["gradient"] == pytest.approx(entries.sum().item())
        assert record["magnitude"] == pytest.approx(entries.abs().sum().item())


def test_cells_whose_coefficients_are_their_outputs_are_refused():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.GRU(4, 4, batch_first=True)

        def forward(self, x):
            return x + self.mix(x)[0]

    model, x = nn.Sequential(Cell(), Cell()).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    share = dsf.stack(model, x).attribute(torch.ones(4, dtype=torch.float64), stream=-1)
    with pytest.raises(InspectionError, match="own outputs"):
        share.by_coefficients("0.mix[layer 0]")
    notes = [record["note"] for record in share.coefficients()]
    assert notes == ["its coefficients depend on its outputs"] * 2
    with pytest.raises(KeyError, match="'nowhere'"):
        share.by_coefficients("nowhere")


def test_the_run_is_not_touched(selective):
    model, x = selective
    stack = dsf.stack(model, x, adapters=[adapter()])
    share = stack.attribute(2)
    with guarded(model), torch.no_grad():
        once = share.by_coefficients("blocks.0")
    again = share.by_coefficients("blocks.0")
    for name, part in once.items():
        assert torch.equal(part, again[name])
        assert not again[name].requires_grad
    assert not any(part.requires_grad for part in tensors(stack.mixers[0].whole.mixer).values())
