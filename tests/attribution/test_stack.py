"""Blocks as one linear network: contributions and remainder are the model's own hidden states."""

import pickle

import pytest
import torch
from torch import nn

import dsf
from dsf.attribution import affine_steps
from dsf.inspection.capture.precision import guarded
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.models import NAMES, folder, recall
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models
from tests.inspection.literal_llama import contributions

transformers = pytest.importorskip("transformers")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def prompt(samples=2, length=16):
    return recall.draw(seeded(0), samples, pairs=length // 4, length=length).tokens


def close(ours, theirs, *, within=1e-12):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max() <= within * theirs.abs().max()


def run(name, tokens, **changes):
    """What the library says: its own hidden states, in float64 throughout."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder(name), **changes).double()
    with guarded(model), torch.no_grad():
        return model, model(input_ids=tokens, output_hidden_states=True, **outputs(changes))


def outputs(changes):
    return {"output_attentions": True} if changes else {}


@pytest.mark.parametrize("name", NAMES)
def test_contributions_and_remainder_are_the_models_hidden_states(name):
    tokens = prompt()
    stack = dsf.stack(folder(name), input_ids=tokens)
    model, output = run(name, tokens)
    # Mamba puts out what leaves each block, the others what enters it; then the last norm.
    first = 1 if name.startswith("mamba") else 0
    for ours, theirs in zip(stack.hidden[first:], output.hidden_states[:-1], strict=False):
        assert close(ours, theirs)
    last = len(stack.blocks)
    for start, stop in ((0, last), (1, last), (0, 1)):
        parts = stack.contributions(start, stop)
        assert close(parts.sum(dim=2) + stack.remainder(start, stop), stack.hidden[stop])
    norm = next(part for path, part in model.named_modules() if path.endswith(("model.norm", "f")))
    with guarded(model), torch.no_grad():
        assert close(norm(stack.hidden[-1]), output.hidden_states[-1])
    assert stack.closed == ()


def test_contributions_are_those_of_the_formula():
    tokens = prompt(samples=1, length=9)
    model, output = run("llama", tokens, attn_implementation="eager")
    blocks = [dict(block.state_dict()) for block in model.model.layers]
    literal = contributions(blocks, output.hidden_states[0], output.attentions)
    stack = dsf.stack(folder("llama"), input_ids=tokens)
    assert close(stack.contributions()[0], literal)


def test_rollout_is_the_contribution_along_the_stream():
    stack = dsf.stack(folder("mamba"), input_ids=prompt())
    stream, rest = stack.hidden[-1], stack.remainder()
    square = stream.square().sum(dim=-1)
    shares = stack.rollout()
    by_hand = torch.einsum("swrd,swd->swr", stack.contributions(), stream) / square.unsqueeze(-1)
    torch.testing.assert_close(shares, by_hand)
    total = shares.sum(dim=-1) + (rest * stream).sum(dim=-1) / square
    torch.testing.assert_close(total, torch.ones_like(total))
    assert shares.triu(1).abs().max() == 0
    assert rest.norm() > 0.01 * stream.norm()
    chained = stack.rollout(1, 2) @ stack.rollout(0, 1)
    assert not close(chained, stack.rollout(0, 2), within=1e-2)


# Shared blocks, hyper-connections, latent values, experts, mixers that hold their residual, tokens
# that are shifted between the mixers, float32 buffers, two mixers side by side.
FAMILIES = ("zamba", "glm5_next", "kimi_linear", "rwkv", "minimax", "falcon_h1", "xlstm")


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_every_make(name):
    stack = dsf.stack(tiny_models.build(name), **tiny_models.inputs(9, padding="left"))
    within = max(1e-12, tiny_models.FAMILIES[name].exact)
    parts = stack.contributions()
    assert close(parts.sum(dim=2) + stack.remainder(), stack.hidden[-1], within=within)
    of_tokens = parts[:, 5:]  # tokens in front of these are padding, which may see anything
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)[5:]
    assert of_tokens[:, later].abs().max() == 0
    assert of_tokens[:, :, 5].abs().max() > 0.01 * parts.abs().max()


@pytest.mark.parametrize("name", ["gemma2", "llama"])
def test_padding_without_keys_puts_out_a_constant(name):
    """Eager attention averages all tokens there, which its map does not."""
    model, ids = softmax_models.build(name), softmax_models.inputs(name)["input_ids"][:1]
    model.set_attn_implementation("eager")
    padded = {"input_ids": torch.cat([torch.zeros_like(ids[:, :4]), ids], dim=1)}
    padded["attention_mask"] = (torch.arange(padded["input_ids"].shape[1]) >= 4).long()[None]
    stack, alone = dsf.stack(model, **padded), dsf.stack(model, input_ids=ids)
    assert stack.error < 1e-12
    ours, theirs = (each.attribute(7, against=9) for each in (stack, alone))
    for by in ("held", "gradient"):
        sums, wanted = ours.edge_sums(1, by)[:, 4:, 4:], theirs.edge_sums(1, by)
        torch.testing.assert_close(sums, wanted)
        torch.testing.assert_close(ours.heads(by), theirs.heads(by))


@pytest.mark.parametrize(("name", "blocks"), [("t5", "encoder.block"), ("t5", "decoder.block")])
def test_an_encoder_and_a_decoder(name, blocks):
    model, inputs = softmax_models.build(name), softmax_models.inputs(name)
    with pytest.raises(InspectionError, match=r"'encoder.block'"):
        dsf.stack(model, **inputs)
    stack = dsf.stack(model, blocks=blocks, **inputs)
    # What a decoder reads from the encoder is no contribution of its own stream.
    from_elsewhere = stack.remainder().norm() / stack.hidden[-1].norm()
    assert (from_elsewhere > 0.05) == (blocks == "decoder.block")


class Block(nn.Module):
    """Attention and something between the blocks that ``inner`` says."""

    def __init__(self, inner):
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.inner = inner

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return x + self.inner(self.norm(x))


class Holding(nn.Module):
    """Attention that adds what it mixes to the stream by itself."""

    def __init__(self):
        super().__init__()
        self.joint, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def mixed(self, x):
        parts = self.joint(x).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(-2))

    def forward(self, x, stream):
        return stream + self.mixed(x)


class HoldingBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(8), Holding()

    def forward(self, x):
        return self.mixer(self.norm(x), x)


class Experts(nn.Module):
    """Every token goes to one of two maps."""

    def __init__(self):
        super().__init__()
        self.router, self.maps = nn.Linear(8, 2), nn.ModuleList([nn.Linear(8, 8) for _ in "ab"])

    def forward(self, x):
        chosen = self.router(x).argmax(dim=-1)
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.maps):
            out[chosen == k] = expert(x[chosen == k])
        return out


class Mean(nn.Module):
    """Mixes tokens, unread by anyone."""

    def forward(self, x):
        return x.mean(dim=1, keepdim=True).exp().expand_as(x) * x.exp()


class Gelu(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * torch.pow(x, 3.0))))


class Squares(nn.Module):
    def forward(self, x):
        ahead = torch.relu(x)
        return ahead * ahead


class Powers(nn.Module):
    """Takes one tensor twice, so that it is linear in neither."""

    def forward(self, x):
        return torch.einsum("std,std->std", x, x)


class Steps(nn.Module):
    def forward(self, x):
        return torch.div(x, 0.5, rounding_mode="floor")


class Silent(nn.Module):
    """Writes its input into a buffer that nobody follows, in a way that ``write`` says."""

    def __init__(self, write=lambda kept, x: kept[:].copy_(x)):
        super().__init__()
        self.write = write

    def forward(self, x):
        kept = x.new_zeros(x.shape)
        self.write(kept, x)
        return kept


INSIDE = {
    "activation": lambda: nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
    "written out": lambda: nn.Sequential(nn.Linear(8, 12), Gelu(), nn.Linear(12, 8)),
    "squares": lambda: nn.Sequential(nn.Linear(8, 12), Squares(), nn.Linear(12, 8)),
    "norms": lambda: nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8)),
    "writing": lambda: Silent(lambda kept, x: kept.__setitem__(slice(None), x)),
    "layout": lambda: nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Flatten(1, 2), nn.Linear(8, 8)),
}  # fmt: skip


@pytest.fixture
def x():
    return torch.randn(2, 6, 8, generator=seeded(0), dtype=torch.float64)


def blocks(inner):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(Block(inner()) for _ in range(2))).double()


@pytest.mark.parametrize("inner", INSIDE.values(), ids=INSIDE)
def test_what_stands_between_mixers_is_followed(x, inner):
    stack = dsf.stack(blocks(inner), x)
    assert stack.closed == ()
    assert close(stack.contributions().sum(dim=2) + stack.remainder(), blocks(inner)(x).detach())


def test_a_way_around_is_no_contribution_of_what_it_goes_around(x):
    """The second block also reads what the first was given."""

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = blocks(nn.Identity)

        def forward(self, x):
            return self.layers[1](self.layers[0](x), x)

    class Reading(Block):
        def forward(self, x, first):
            return super().forward(x) + 2 * first

    model = Around()
    model.layers[1].__class__ = Reading
    stack = dsf.stack(model.double(), x)
    direct = stack.contributions(1, 2).sum(dim=2)
    assert close(direct + stack.remainder(1, 2), stack.hidden[2])
    alone = dsf.stack(blocks(nn.Identity), x)
    assert close(stack.remainder(1, 2) - alone.remainder(1, 2), 2 * x)
    everything = stack.contributions(0, 2).sum(dim=2)
    assert close(everything + stack.remainder(0, 2), stack.hidden[2])


def test_what_a_mixer_adds_is_told_from_the_stream_that_its_module_adds(x):
    torch.manual_seed(0)
    model = nn.Sequential(HoldingBlock(), HoldingBlock()).double()
    stack = dsf.stack(model, x)
    assert stack.error < 1e-12
    along = torch.linspace(-1, 1, 8, dtype=torch.float64)
    share = stack.attribute(along, stream=1)
    first = model[0]
    with torch.no_grad():
        mixed = first.mixer.mixed(first.norm(x))[:, -1] @ along
    torch.testing.assert_close(share.embedding, x[:, -1] @ along)
    torch.testing.assert_close(share.layers["0.mixer"] + share.remainder, mixed)
    whole = stack.attribute(along, stream=-1)
    for name, part in whole.total.items():
        torch.testing.assert_close(whole.edge_sums(name).sum(dim=(1, 2)), part)


WRITING = {
    "itself": lambda kept, x: kept.copy_(x),
    "a view": lambda kept, x: kept[:].copy_(x),
    "a view of a view": lambda kept, x: kept.view(-1, 8)[:].add_(x.flatten(0, 1)),
    "one of several views": lambda kept, x: [part.copy_(x[k]) for k, part in enumerate(kept)],
    "an output": lambda kept, x: torch.mul(x, 2, out=kept),
    "a view of an output": lambda kept, x: torch.mul(x, 2, out=kept[:]),
}


@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_what_is_written_into_a_buffer_is_no_constant(x, write):
    """Without biases nothing but the tokens makes the output."""
    model = blocks(lambda: Silent(write))
    for block in model:
        nn.init.zeros_(block.attention.in_proj_bias)
        nn.init.zeros_(block.attention.out_proj.bias)
    stack = dsf.stack(model, x)
    assert stack.closed == ("0.inner", "1.inner")
    share = stack.attribute(torch.ones(8).double(), stream=-1)
    assert share.remainder.abs().max() < 1e-9 * share.tokens.abs().max()


@pytest.mark.parametrize("inner", [Experts, Silent, Powers, Steps])
def test_what_is_not_understood_is_closed_token_by_token(x, inner):
    stack = dsf.stack(blocks(inner), x)
    assert stack.closed == ("0.inner", "1.inner")
    parts = stack.contributions(1, 2)
    assert close(parts.sum(dim=2) + stack.remainder(1, 2), blocks(inner)(x).detach())


def test_two_parts_of_a_stream_tell_what_is_not_linear(x, monkeypatch):
    """The magnitude of the whole stream is the same again, and not a sum of those of its parts."""

    class Magnitude(nn.Module):
        def forward(self, x):
            return x.abs()

    monkeypatch.setattr(affine_steps, "LAYOUT", affine_steps.LAYOUT | {"abs"})
    stack = dsf.stack(blocks(Magnitude), x)
    with pytest.raises(ReconstructionError, match="would be wrong"):
        stack.contributions()


def test_a_module_that_mixes_tokens_is_not_closed(x):
    with pytest.raises(UnreadableError, match="inner"):
        dsf.stack(blocks(Mean), x)


def test_a_stream_that_is_bent_is_refused(x):
    class Bent(Block):
        def forward(self, x):
            return x.exp() + self.attention(x, x, x)[0]

    model = nn.Sequential(Bent(None), Bent(None)).double()
    with pytest.raises(UnreadableError, match="'exp'"):
        dsf.stack(model, x)


def test_streams_that_are_not_there_are_refused(x):
    stack = dsf.stack(blocks(nn.Identity), x)
    with pytest.raises(IndexError, match="start is 2"):
        stack.contributions(2)
    with pytest.raises(InspectionError, match="'nowhere'"):
        dsf.stack(blocks(nn.Identity), x, blocks="nowhere")


@pytest.mark.parametrize("kind", ["attention", "gru"])
def test_tokens_on_the_first_axis_are_refused_with_the_cure(kind):
    if kind == "gru":
        model = Recurrent()
    else:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=False)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(UnreadableError, match="batch_first"):
        dsf.stack(model.double(), x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.GRU(8, 8) for _ in range(2)])

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)[0]
        return x


def test_a_stack_and_its_shares_say_what_can_be_saved_of_them(tmp_path):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    stack = dsf.stack(model, torch.randn(1, 5, 8, dtype=torch.float64))
    share = stack.attribute(torch.ones(8, dtype=torch.float64), stream=-1)
    for held, words in ((stack, r"stack\.inspection"), (share, r"share\.tokens")):
        with pytest.raises(TypeError, match=f"cannot be pickled .* Save .*{words}"):
            pickle.dumps(held)
        with pytest.raises(TypeError, match="cannot be pickled"):
            torch.save(held, tmp_path / "held.pt")
    assert len(pickle.loads(pickle.dumps(stack.inspection))) == 2
    paths = share.paths()  # none: a norm has made the sum of all channels zero
    assert paths.covered == len(paths) == 0
    pickle.dumps((share.tokens, share.layers, share.total, paths.to_json()))
