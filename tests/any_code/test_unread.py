"""Whatever mixes tokens is read or listed, whatever it is called and wherever it is computed."""

import pytest
import torch
import transformers
from torch import nn

import dsf
from dsf.inspection.errors import NothingCapturedError
from tests.any_code import modules
from tests.any_code.modules import KEEP_APART, MIXERS, Beside, drawn, tokens


def listed(model, x):
    inspection = dsf.inspect(drawn(model), x, probe=())
    assert [layer.name for layer in inspection] == ["attention"]
    assert inspection[0].is_exact
    return [missed.name for missed in inspection.unsupported]


@pytest.mark.sampled(count=14)
@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_beside_an_attention_is_listed(name, first):
    names = listed(Beside(MIXERS[name](), first=first), tokens())
    alone_moves = name in ("shift", "roll", "flip")  # each token of it moves one other
    assert any(each.startswith("other") for each in names) or (alone_moves and names)


@pytest.mark.parametrize("name", KEEP_APART)
def test_what_keeps_tokens_apart_is_not_listed(name):
    if name == "norm of channels":
        norm = nn.GroupNorm(1, modules.WIDTH, affine=False)
        other = modules.Computes(lambda x: norm(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
    else:
        other = KEEP_APART[name]()
    assert listed(Beside(other), tokens()) == []


def test_a_mixer_around_an_attention_is_listed_as_its_own():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = modules.Attention()

        def forward(self, x):
            return self.attention(x) + x.cumsum(dim=1)

    assert listed(Around(), tokens()) == ["Around"]


class LocalAndLinearHeads(nn.Module):
    """Half of the heads go through an attention of their own class, half are linear."""

    def __init__(self):
        super().__init__()
        self.attention, self.linear = modules.Attention(width=8, heads=2), nn.Linear(8, 24)

    def forward(self, x):
        local, other = x.chunk(2, dim=-1)
        q, k, v = self.linear(other).chunk(3, dim=-1)
        return torch.cat([self.attention(local), q @ (k.mT @ v)], dim=-1)


class LearnsInItsRun(nn.Module):
    """A memory that takes a step of gradient descent on every token (titans)."""

    def __init__(self):
        super().__init__()
        self.k, self.v, self.q = (nn.Linear(modules.WIDTH, modules.WIDTH) for _ in range(3))

    def forward(self, x):
        def miss(memory, key, value):
            return (key @ memory - value).square().sum()

        surprise = torch.func.vmap(
            torch.func.vmap(torch.func.grad(miss), (None, 0, 0)), (None, 0, 0)
        )
        start = torch.eye(modules.WIDTH)
        memory = start - 0.01 * surprise(start, self.k(x), self.v(x)).cumsum(dim=1)
        return (self.q(x)[:, :, None] @ memory).squeeze(2)


def test_linear_heads_beside_an_attention_in_one_module_are_listed():
    assert listed(LocalAndLinearHeads(), tokens()) == ["LocalAndLinearHeads"]


def test_a_memory_that_learns_in_its_run_is_listed():
    names = listed(Beside(LearnsInItsRun()), tokens())
    assert any(name.startswith("other") for name in names)


def test_the_front_end_that_makes_tokens_is_not_listed():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, modules.WIDTH, 2, stride=2)
            self.attention = modules.Attention()

        def forward(self, image):
            return self.attention(self.patch(image).flatten(2).mT)

    assert listed(Patches(), tokens(4, 3, 8, 8)) == []


def test_ids_are_followed_through_their_embedding():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(16, modules.WIDTH)
            self.attention = modules.Attention()

        def forward(self, ids):
            x = self.embed(ids)
            return self.attention(x) + torch.nn.functional.pad(x, (0, 0, 1, -1))

    ids = torch.arange(64).reshape(4, 16) % 13
    assert listed(Language(), ids) == ["Language"]


class Patches(nn.Module):
    """A front end that lays the pixels of every patch in one row, norms and projects them."""

    def __init__(self, *, is_normed):
        super().__init__()
        self.norm = nn.LayerNorm(12) if is_normed else nn.Identity()
        self.project = nn.Linear(12, modules.WIDTH)
        self.attention = modules.Attention()

    def forward(self, image):
        rows = image.unflatten(2, (4, 2)).unflatten(4, (4, 2))  # sample channel h p w q
        rows = rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return self.attention(self.project(self.norm(rows)))


@pytest.mark.parametrize("is_normed", [True, False])
def test_pixels_laid_in_rows_and_projected_make_tokens(is_normed):
    assert listed(Patches(is_normed=is_normed), tokens(4, 3, 8, 8)) == []


class Groups(nn.Module):
    """Groups of tokens become one and are taken apart again, beside the tokens themselves."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        width = modules.WIDTH
        if kind == "projection":
            self.down, self.up = nn.Linear(2 * width, width), nn.Linear(width, 2 * width)
        else:
            self.down = nn.Conv1d(width, width, 2, stride=2)
            self.up = nn.ConvTranspose1d(width, width, 2, stride=2)

    def forward(self, x):
        if self.kind == "projection":
            pairs = x.unflatten(1, (-1, 2)).flatten(2)
            return x + self.up(self.down(pairs)).unflatten(2, (2, -1)).flatten(1, 2)
        return x + self.up(self.down(x.mT)).mT


@pytest.mark.parametrize("kind", ["projection", "convolution"])
def test_groups_that_are_added_to_their_tokens_mix_them(kind):
    assert listed(Beside(Groups(kind)), tokens()) == ["other"]


class Slots(nn.Module):
    """Tokens are summed into a few slots, with weights that compete for every token."""

    def __init__(self):
        super().__init__()
        self.slots = nn.Parameter(torch.zeros(3, modules.WIDTH))
        self.k, self.v = (nn.Linear(modules.WIDTH, modules.WIDTH) for _ in range(2))

    def forward(self, x):
        weights = (self.slots @ self.k(x).mT).softmax(dim=1)
        return weights / weights.sum(dim=-1, keepdim=True) @ self.v(x)


def test_tokens_that_are_summed_into_slots_are_listed():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.pool = modules.Attention(), Slots()

        def forward(self, x):
            return self.pool(x + self.attention(x))

    assert listed(Pooled(), tokens()) == ["pool"]


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, other):
        return x + self.inner(x, other)


class Hourglass(nn.Module):
    """Pooled groups look at their tokens, beside themselves, and are spread over them again."""

    def __init__(self):
        super().__init__()
        self.attention = modules.Attention()
        self.gather = Residual(Gather(is_fused=False))

    def forward(self, x):
        x = x + self.attention(x)
        groups = x.unflatten(1, (-1, 2))
        pooled = self.gather(groups.mean(dim=2).flatten(0, 1)[:, None], groups.flatten(0, 1))
        return x + pooled.unflatten(0, (x.shape[0], -1)).expand(-1, -1, 2, -1).flatten(1, 2)


class Gather(modules.Attention):
    def forward(self, x, other):
        q, k, v = modules.in_heads(self.q(x)), *self.parts(other)[1:]
        return self.o(modules.merged(self.mix(q, k, v)))

    def parts(self, x):
        return tuple(super().parts(x))


def test_groups_that_pass_by_an_attention_to_their_tokens_are_listed():
    inspection = dsf.inspect(drawn(Hourglass()), tokens())
    assert "Hourglass" in [missed.name for missed in inspection.unsupported]


class OneConvolutionForEach(nn.Module):
    """Two tokens lie in the channels of every row, each in a group of its own (routed experts)."""

    def __init__(self, groups):
        super().__init__()
        self.project = nn.Conv1d(2 * modules.WIDTH, 2 * modules.WIDTH, 1, groups=groups)

    def forward(self, x):
        rows = x.unflatten(1, (2, -1)).permute(0, 1, 3, 2).flatten(1, 2)
        return self.project(rows).unflatten(1, (2, -1)).permute(0, 1, 3, 2).flatten(1, 2)


@pytest.mark.parametrize(("groups", "names"), [(1, ["other.project"]), (2, []), (4, [])])
def test_groups_of_channels_of_different_tokens_stay_apart(groups, names):
    assert listed(Beside(OneConvolutionForEach(groups)), tokens()) == names


class OneQuery(modules.Attention):
    """A learned query reads all tokens, with weights of a ``torch.nn.Softmax``."""

    def __init__(self, **options):
        super().__init__(**options)
        self.query, self.attend = nn.Parameter(torch.zeros(1, 1, modules.WIDTH)), nn.Softmax(dim=-1)

    def forward(self, x):
        _, k, v = self.parts(x)
        q = modules.in_heads(self.query.expand(x.shape[0], -1, -1))
        return self.o(modules.merged(self.attend(q @ k.mT) @ v))


def test_the_softmax_of_an_attention_that_was_read_is_no_mixer_of_its_own():
    inspection = dsf.inspect(drawn(nn.Sequential(OneQuery())), tokens())
    assert [layer.name for layer in inspection] == ["0"]
    assert [missed.name for missed in inspection.unsupported] == []


def test_a_pyramid_that_shrinks_to_one_place_is_told_where_its_places_meet():
    """The places of every stage are made into fewer: none of them is called apart."""
    torch.manual_seed(0)
    stages = [nn.Conv2d(4, 4, 2, stride=2) for _ in range(3)]
    pyramid = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), *stages)
    with pytest.raises(NothingCapturedError) as told:
        dsf.inspect(pyramid, torch.randn(2, 3, 32, 32))
    assert "0, 1, 2 and 1 more" in str(told.value)
    assert "larger input" in str(told.value)


def test_what_mixes_the_places_of_a_stage_is_read_or_listed():
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 2, stride=2))
        for _ in range(3)
    ]
    pyramid = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), *stages)
    inspection = dsf.inspect(pyramid, torch.randn(2, 3, 32, 32))
    read = {layer.name for layer in inspection if layer.is_exact}
    assert {"1.0", "2.0", "3.0"} <= read | {one.name for one in inspection.unsupported}


@pytest.mark.parametrize(
    "of",
    [
        lambda scores: scores[..., :1],
        lambda scores: scores.sum(dim=-1, keepdim=True),
        lambda scores: scores.logsumexp(dim=-1, keepdim=True),
    ],
    ids=["one key", "sum", "normaliser"],
)
def test_numbers_made_of_scores_are_no_map(of):
    class Weighed(modules.Attention):
        def forward(self, x):
            q, k, v = self.parts(x)
            return modules.merged(of(q @ k.mT).tanh() * v)

    assert listed(Beside(Weighed()), tokens())


class OfStatistics(nn.Module):
    """A norm whose statistics are those of its tokens, written into its buffers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(modules.WIDTH)

    def forward(self, x):
        self.norm.running_mean.copy_(x.mean(dim=(0, 1)))
        return x + self.norm(x.mT).mT


class Leaves(nn.Module):
    """A linear layer whose hook leaves numbers that are added to all tokens behind it."""

    def __init__(self, way):
        super().__init__()
        self.inner, self.left = nn.Linear(modules.WIDTH, modules.WIDTH), []
        self.inner.register_forward_hook(lambda *given: self.left.append(way(given[-1])))

    def forward(self, x):
        return self.inner(x) + torch.tensor(self.left.pop()).mean(dim=1, keepdim=True)


OUTSIDE = {
    "statistics": OfStatistics,
    "array": lambda: Leaves(lambda y: y.numpy()),
    "numbers": lambda: Leaves(lambda y: y.tolist()),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_tokens_leave_outside_of_modules_is_found_without_a_mixer(kind):
    model = drawn(OUTSIDE[kind]())
    with pytest.raises(NothingCapturedError, match=rf"{type(model).__name__} \("):
        dsf.inspect(model, tokens(2, 6, modules.WIDTH), probe=())


FEATURES = 8


def shifted(x):
    """Half of the features from the token before."""
    return torch.cat([x[..., :4], nn.functional.pad(x[..., 4:], (0, 0, 1, -1))], dim=-1)


class Whole(nn.Module):
    """A mixer of torch that is read as a whole, and what it is given of its tokens."""

    def __init__(self, mixer, given, queries=None):
        super().__init__()
        self.first, self.mix = nn.Linear(FEATURES, FEATURES), mixer
        self.given, self.queries = given, queries or given

    def forward(self, x):
        x = self.first(x)
        given = self.given(x)
        if isinstance(self.mix, nn.MultiheadAttention):
            return self.mix(self.queries(x), given, given, need_weights=False)[0]
        return self.mix(given)[0]


def of_torch(features):
    return {
        "attention": lambda: nn.MultiheadAttention(features, 2, batch_first=True),
        "LSTM": lambda: nn.LSTM(features, 3, batch_first=True),
        "GRU": lambda: nn.GRU(features, 3, batch_first=True),
    }


@pytest.mark.parametrize("kind", of_torch(FEATURES))
def test_features_of_several_tokens_that_meet_in_a_mixer_of_torch_are_listed(kind):
    model = Whole(of_torch(FEATURES)[kind](), shifted)
    inspection = dsf.inspect(drawn(model), tokens(2, 6, FEATURES))
    assert {one.name for one in inspection.unsupported} == {"mix"}
    assert not any(layer.is_exact for layer in inspection)


@pytest.mark.parametrize("at_queries", [True, False])
def test_features_of_several_tokens_in_queries_or_keys_are_listed(at_queries):
    ways = (lambda x: x, shifted) if at_queries else (shifted, lambda x: x)
    model = Whole(of_torch(FEATURES)["attention"](), *ways)
    inspection = dsf.inspect(drawn(model), tokens(2, 6, FEATURES))
    assert {one.name for one in inspection.unsupported} == {"mix"}


def test_tokens_that_lie_where_an_attention_of_torch_has_its_features_are_listed():
    model = Whole(of_torch(6)["attention"](), lambda x: x.mT)
    inspection = dsf.inspect(drawn(model), tokens(2, 6, FEATURES))
    assert {one.name for one in inspection.unsupported} == {"mix"}


@pytest.mark.parametrize("kind", of_torch(2 * FEATURES))
def test_fewer_tokens_of_two_each_are_not_listed(kind):
    model = Whole(of_torch(2 * FEATURES)[kind](), lambda x: x.reshape(2, 3, -1))
    inspection = dsf.inspect(drawn(model), tokens(2, 6, FEATURES))
    assert not inspection.unsupported
    assert all(layer.is_exact for layer in inspection)


def test_what_follows_features_of_several_tokens_keeps_tokens_apart():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(FEATURES, 2, 16, batch_first=True)

        def forward(self, x):
            return self.layer(shifted(x))

    inspection = dsf.inspect(drawn(Encoder()), tokens(2, 6, FEATURES), probe=())
    names = {one.name for one in inspection.unsupported}
    assert "layer.self_attn" in names
    assert names <= {"layer", "layer.self_attn"}


class Latents(nn.Module):
    """Learnt queries read the tokens, and tokens may read what becomes of what these made."""

    def __init__(self, mix, *, count=4, is_fused=False, comes_back=True):
        super().__init__()
        self.queries, self.mix = nn.Parameter(torch.empty(1, count, FEATURES)), mix
        self.is_fused, self.comes_back = is_fused, comes_back
        self.parts = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(2))
        self.into, self.back = (nn.MultiheadAttention(FEATURES, 2, batch_first=True) for _ in "ab")

    def forward(self, x):
        queries = self.queries.expand(len(x), -1, -1)
        if self.is_fused:
            given = (part(x) for part in self.parts)
            made = nn.functional.scaled_dot_product_attention(queries, *given)
        else:
            made = self.into(queries, x, x, need_weights=False)[0]
        made = self.mix(made)
        return x + self.back(x, made, made, need_weights=False)[0] if self.comes_back else made


class Decided(nn.Linear):
    def __init__(self):
        super().__init__(FEATURES, FEATURES)

    def forward(self, x):
        return x + torch.tanh(super().forward(x).cumsum(1)) * x


class Averaged(Decided):
    def forward(self, x):
        return x + torch.tanh(nn.Linear.forward(self, x)).square().mean(1, keepdim=True).sqrt()


class Moved(Decided):
    def forward(self, x):
        return x * nn.Linear.forward(self, x).roll(1, 1).sigmoid()


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("kind", [Decided, Averaged, Moved])
def test_what_learnt_queries_made_and_what_mixes_it_is_listed(kind, count, is_fused, comes_back):
    model = Latents(kind(), count=count, is_fused=is_fused, comes_back=comes_back)
    inspection = dsf.inspect(drawn(model), tokens(2, 6, FEATURES), probe=())
    listed = {one.name for one in inspection.unsupported}
    assert "mix" in listed
    assert listed <= {"mix", "into", "back"}  # of which some did not run
    probed = dsf.inspect(model, tokens(2, 6, FEATURES))
    assert "mix" in {layer.name for layer in probed} | {one.name for one in probed.unsupported}
    for layer in probed:
        assert layer.name != "mix" or layer.columns == "slot"
        assert layer.name != "back" or (layer.columns == "slot" and (layer.column_tokens < 0).all())


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("count", [4, 6])
def test_what_learnt_queries_made_and_nothing_mixes_is_not_listed(count, is_fused):
    model = Latents(nn.Linear(FEATURES, FEATURES), count=count, is_fused=is_fused)
    inspection = dsf.inspect(drawn(model), tokens(2, 6, FEATURES))
    assert {one.name for one in inspection.unsupported} <= {"into"}  # which did not run
    assert all(layer.is_exact for layer in inspection)
    assert (inspection[0].row_tokens < 0).all()


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("mix", [torch.tanh, lambda x: x.tanh().mean(2, keepdim=True)])
def test_a_module_that_mixes_what_learnt_queries_made_in_it_says_so(mix, comes_back):
    class Inside(Latents):
        def forward(self, x):
            x, queries = x[:, None], self.queries.expand(len(x), 1, -1, -1)
            attend = nn.functional.scaled_dot_product_attention
            made = attend(queries, *(part(x) for part in self.parts))
            made = made + mix(made)
            return (attend(x, made, made) if comes_back else made)[:, 0]

    model = drawn(Inside(None))
    del model.into, model.back
    inspection = dsf.inspect(model, tokens(2, 6, FEATURES))
    names = {one.name for one in inspection.unsupported}
    assert names == (set() if mix is torch.tanh else {"Inside"})
    assert all(layer.is_exact for layer in inspection) == (not names)


class Learnt(nn.Module):
    """A decoder that is given start tokens alone, behind an encoder."""

    def __init__(self, count):
        super().__init__()
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "vocab_size": 20}
        configuration = transformers.T5Config(**sizes, num_layers=1, num_decoder_layers=2)
        model = transformers.T5Model._from_config(configuration, attn_implementation="sdpa")
        self.encoder, self.decoder, self.count = model.encoder, model.decoder, count
        self.last = nn.Linear(32, 32)

    def forward(self, x):
        read = self.encoder(inputs_embeds=x).last_hidden_state
        starts = torch.zeros(len(x), self.count, dtype=torch.long)
        made = self.decoder(input_ids=starts, encoder_hidden_states=read, use_cache=False)
        return self.last(made.last_hidden_state)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_heads_of_what_learnt_queries_read_are_no_places(count):
    inspection = dsf.inspect(drawn(Learnt(count)), tokens(2, 6, 32))
    assert not inspection.unsupported
    assert all(layer.name.endswith("Attention") and layer.is_exact for layer in inspection)
    assert [layer.columns for layer in inspection] == ["token", "slot", "token", "slot", "token"]


class Resampled(nn.Module):
    """Latents read the tokens and themselves, in layers; what they read may be leaked into."""

    def __init__(self, leak, count=3):
        super().__init__()
        self.latents, self.leak = nn.Parameter(torch.empty(count, FEATURES)), leak
        self.layers = nn.ModuleList(Resampling() for _ in range(3))

    def forward(self, x):
        made = self.latents.expand(len(x), -1, -1)
        for number, layer in enumerate(self.layers):
            made = made + layer(x, made, self.leak if number == 1 else None)
        return made


class Resampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(FEATURES, FEATURES) for _ in range(3))

    def forward(self, x, made, leak):
        x, made = (x, made) if leak is None else leak(x, made)
        read = torch.cat([x, made], dim=1)
        return (self.q(made) @ self.k(read).mT / 3).softmax(-1) @ self.v(read)


def test_latents_that_mixers_made_are_read_beside_tokens():
    inspection = dsf.inspect(drawn(Resampled(None)), tokens(2, 6, FEATURES))
    assert not inspection.unsupported
    assert [layer.columns for layer in inspection] == ["token", "slot", "slot"]
    assert all(layer.is_exact for layer in inspection)
    assert all((layer.row_tokens == -1).all() for layer in inspection)


LEAKS = {
    "a token in latents": lambda x, made: (x, made + x[:, :1].tanh()),
    "tokens in latents": lambda x, made: (x, made + x[:, 1:4].tanh()),
    "a mean in latents": lambda x, made: (x, made + x.tanh().mean(1, keepdim=True)),
    "a latent in tokens": lambda x, made: (x + made[:, :1].tanh(), made),
    "latents in latents": lambda x, made: (x, made.tanh().cumsum(1)),
    "tokens in tokens": lambda x, made: (x + x.tanh().mean(1, keepdim=True), made),
}


@pytest.mark.parametrize("way", LEAKS)
def test_what_leaks_between_latents_and_tokens_that_are_read_beside_them_is_listed(way):
    inspection = dsf.inspect(drawn(Resampled(LEAKS[way])), tokens(2, 6, FEATURES), probe=())
    assert "layers.1" in {one.name for one in inspection.unsupported}
    assert not inspection["layers.1"].is_exact
