"""Which axis carries tokens, samples and heads is asked of the run, never told from sizes."""

from functools import partial

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.errors import InspectionError, NothingCapturedError
from tests.any_code import modules
from tests.any_code.modules import SIZE, WIDTH, drawn, tokens

WAYS = pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "own softmax"])


def read(module, x):
    (layer,) = dsf.inspect(drawn(module), x)
    return layer


def agree(layer, expected):
    torch.testing.assert_close(layer.map(), expected, atol=1e-6, rtol=0)
    assert layer.is_exact
    assert layer.share == 1.0


@WAYS
@pytest.mark.parametrize(
    "kind",
    [
        modules.Attention,
        modules.HeadsBeforeSamples,
        modules.HeadsBehindSamples,
        modules.HeadsLast,
        modules.ByInterface,
    ],
)
def test_every_layout_has_the_same_maps(kind, is_fused):
    module, x = kind(is_fused=is_fused), tokens()
    layer = read(module, x)
    assert layer.axes == ("sample", "head")
    agree(layer, module.weights(x))


class Variates(nn.Module):
    """Patches of every variate of a series, its variates in the axis of the samples (PatchTST)."""

    def __init__(self, inner):
        super().__init__()
        self.embed, self.inner = nn.Linear(3, WIDTH), inner

    def forward(self, x):
        x = self.embed(x.mT.unflatten(-1, (-1, 3)))
        return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("kind", [modules.Attention, modules.ByInterface])
@pytest.mark.parametrize("variates", [1, 2])
def test_variates_in_the_axis_of_the_samples_are_heads(kind, variates):
    module, x = Variates(kind()).double(), tokens(SIZE, 18, variates).double()
    layer = read(module, x)
    inside = module.embed(x.mT.unflatten(-1, (-1, 3))).flatten(0, 1)
    agree(layer, module.inner.weights(inside).view(layer.map().shape))


@pytest.mark.parametrize("steps", [6, SIZE, WIDTH])
def test_heads_may_come_behind_tokens_in_what_a_module_puts_out(steps):
    module, x = modules.InnerHeadsLast(), tokens(SIZE, steps, WIDTH)
    layer = read(module, x)
    assert (layer.name, layer.axes) == ("inner", ("sample", "head"))
    agree(layer, module.weights(x))


@WAYS
def test_tokens_may_come_first_or_last(is_fused):
    first, x = modules.TimeFirst(is_fused=is_fused), tokens()
    agree(read(first, x.transpose(0, 1)), first.weights(x))
    last = modules.ChannelsFirst(is_fused=is_fused)
    agree(read(last, x.mT), last.weights(x.mT))


@WAYS
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(
    "kind", [modules.Attention, modules.HeadsBeforeSamples, modules.HeadsLast, modules.ByInterface]
)
def test_a_single_token_is_no_slot(kind, samples, is_fused):
    """No index of it varies, as none of a slot does that is made of all tokens."""
    module, x = kind(is_fused=is_fused), tokens(samples, 1, WIDTH)
    inspection = dsf.inspect(drawn(module), x)
    (layer,) = inspection
    assert not inspection.unsupported
    assert (layer.columns, layer.axes) == ("token", ("sample", "head"))
    agree(layer, module.weights(x))


@WAYS
@pytest.mark.parametrize("kind", [modules.Windows, modules.WindowsAsSamples])
def test_windows_have_an_axis_of_their_own(kind, is_fused):
    module, x = kind(is_fused=is_fused), tokens()
    layer = read(module, x)
    assert layer.axes == ("sample", "window", "head")
    with torch.no_grad():
        q, k, _ = (part.double().unflatten(2, (SIZE, -1)) for part in module.parts(x))
    expected = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1).transpose(1, 2)
    agree(layer, expected)
    places = torch.arange(WIDTH).reshape(1, SIZE, 1, SIZE).expand(SIZE, -1, SIZE, -1)
    torch.testing.assert_close(layer.column_tokens, places)
    torch.testing.assert_close(layer.row_tokens, places)


@pytest.mark.parametrize("kind", [modules.HeadsBeforeSamples, modules.Windows])
def test_a_sample_alone_has_the_map_that_it_has_in_a_batch(kind):
    module, x = drawn(kind()), tokens()
    both = dsf.inspect(module, x)[0].map()
    for k in range(SIZE):
        alone = dsf.inspect(module, x[k : k + 1])[0].map()
        torch.testing.assert_close(alone[0], both[k], atol=1e-6, rtol=0)


def test_the_columns_of_a_reversed_sequence_are_named():
    module, x = modules.Flipped(), tokens()
    layer = read(module, x)
    agree(layer, module.weights(x.flip(1)))
    backwards = torch.arange(WIDTH).flip(0).expand(SIZE, SIZE, -1)
    torch.testing.assert_close(layer.column_tokens, backwards)
    torch.testing.assert_close(layer.row_tokens, backwards)


def test_the_columns_of_a_permuted_sequence_are_named():
    module, x = modules.Permuted(), tokens()
    layer = read(module, x)
    agree(layer, module.weights(x[:, module.order]))
    torch.testing.assert_close(layer.column_tokens[0, 0], module.order)


@WAYS
def test_attention_across_channels_is_probed(is_fused):
    (layer,) = inspection = dsf.inspect(
        drawn(modules.ChannelAttention(is_fused=is_fused)), tokens()
    )
    assert (layer.family, layer.is_exact) == ("probed", True)
    assert inspection.unsupported == ()


def test_attention_across_channels_by_the_interface_is_probed():
    """Beside an attention, as in Florence-2."""
    model = drawn(modules.Beside(modules.ChannelsByInterface()))
    attention, across = inspection = dsf.inspect(model, tokens())
    assert (attention.name, across.name) == ("attention", "other")
    assert (across.family, across.is_exact) == ("probed", True)
    assert inspection.unsupported == ()


@WAYS
@pytest.mark.parametrize("kind", [modules.Slots, modules.PooledKeys])
def test_columns_that_are_no_tokens_are_called_slots(kind, is_fused):
    inspection = dsf.inspect(drawn(kind(is_fused=is_fused)), tokens(), probe=())
    (layer,), (listed,) = inspection, inspection.unsupported
    assert layer.columns == "slot"
    assert "columns of its maps are not tokens" in listed.reason
    assert "columns: slot" in repr(layer)


@pytest.mark.sampled
@WAYS
@pytest.mark.parametrize("kind", [modules.Slots, modules.PooledKeys])
def test_slots_that_are_linear_in_the_tokens_are_in_the_map(kind, is_fused):
    module, x = drawn(kind(is_fused=is_fused)), tokens()
    layer = read(module, x)
    if kind is modules.Slots:
        made = module.along.detach().double()
    else:
        made = torch.eye(WIDTH // 2, dtype=torch.float64).repeat_interleave(2, dim=1) / 2
    agree(layer, module.weights(x) @ made)
    assert layer.columns == "token"


class Across(modules.Attention):
    """The tokens of one sequence read those of another."""

    def forward(self, x, y):
        q = modules.in_heads(self.q(x))
        k, v = (modules.in_heads(one(y)) for one in (self.k, self.v))
        return self.o(modules.merged(self.mix(q, k, v)))


class Induced(torch.nn.Module):
    """Learned queries read the tokens, and the tokens read what these made (induced set)."""

    def __init__(self, *, is_fused, forgets=True):
        super().__init__()
        self.slots = torch.nn.Parameter(torch.zeros(5, WIDTH))
        self.first, self.second = Across(is_fused=is_fused), Across(is_fused=is_fused)
        self.forgets = forgets

    def forward(self, x):
        slots = self.first(self.slots.expand(len(x), -1, -1), x)
        slots = slots if self.forgets else slots + x.mean(dim=1, keepdim=True).tanh()
        return self.second(x, slots.tanh())


@WAYS
def test_slots_that_a_map_makes_are_columns_of_the_next(is_fused):
    inspection = dsf.inspect(drawn(Induced(is_fused=is_fused)), tokens(), probe=())
    assert [layer.columns for layer in inspection] == ["token", "slot"]
    assert [layer.map().shape[-2:] for layer in inspection] == [(5, WIDTH), (WIDTH, 5)]
    assert all(layer.is_exact for layer in inspection)
    assert inspection.unsupported == ()


def test_slots_that_something_else_makes_too_are_listed():
    module = drawn(Induced(is_fused=True, forgets=False))
    inspection = dsf.inspect(module, tokens(), probe=())
    listed = {missed.name: missed.reason for missed in inspection.unsupported}
    assert "columns of its maps are not tokens" in listed["second"]


@WAYS
def test_padding_among_the_columns_is_told_apart(is_fused):
    module, x = modules.LooksBack(is_fused=is_fused), tokens()
    layer = read(module, x)
    assert layer.columns == "token or padding"
    expected = torch.cat([torch.full((3,), -1), torch.arange(WIDTH)])
    torch.testing.assert_close(layer.column_tokens[0, 0], expected)


class LooksBackInWindows(torch.nn.Module):
    """Windows that look at the one before; samples and heads in one axis (local attention)."""

    def __init__(self, window):
        super().__init__()
        self.window = window

    def forward(self, q, k, v):
        rows = (part.flatten(0, 1).unflatten(1, (-1, self.window)) for part in (q, k, v))
        q, *columns = rows
        k, v = (
            torch.cat([torch.nn.functional.pad(part, (0, 0, 0, 0, 1, -1)), part], dim=2)
            for part in columns
        )
        scores = torch.einsum("bwid,bwjd->bwij", q, k)
        mixed = torch.einsum("bwij,bwjd->bwid", scores.softmax(dim=-1), v)
        return mixed.flatten(1, 2).unflatten(0, (2, 3))


@pytest.mark.parametrize("window", [8, 4])
def test_windows_that_look_back_tell_samples_heads_and_padding(window):
    q, k, v = (tokens(2, 3, 8, SIZE, seed=seed) for seed in (1, 2, 3))
    (layer,) = dsf.inspect(LooksBackInWindows(window), q, k, v)
    scores = (q @ k.mT).double()
    for sample in range(2):
        for head in range(3):
            for start in range(0, 8, window):
                at = (sample, head) if window == 8 else (sample, start // window, head)
                before = scores[
                    sample, head, start : start + window, max(start - window, 0) : start
                ]
                if not start:
                    before = torch.zeros(window, window)
                here = scores[sample, head, start : start + window, start : start + window]
                expected = torch.cat([before, here], dim=-1).softmax(dim=-1)
                torch.testing.assert_close(layer.map()[at], expected, atol=1e-6, rtol=0)
                places = torch.arange(start - window, start + window).clamp(min=-1)
                torch.testing.assert_close(layer.column_tokens[at], places)


class ScoresOfOneAxis(torch.nn.Module):
    """Scores by ``baddbmm`` over samples and heads as one axis, as GPT-NeoX-Japanese has them."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def weights_and_values(self, x):
        samples, steps, _ = x.shape
        parts = (self.q, self.k, self.v)
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        q, k = (part.reshape(samples * self.heads, steps, -1) for part in (q, k))
        none = x.new_zeros(samples * self.heads, steps, steps)
        scores = torch.baddbmm(none, q, k.mT, beta=1.0, alpha=0.7)
        return scores.view(samples, self.heads, steps, -1).softmax(-1), v

    def forward(self, x):
        weights, v = self.weights_and_values(x)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_samples_and_heads_may_be_one_axis_of_the_scores(samples):
    module, x = ScoresOfOneAxis(2), tokens(samples, SIZE, WIDTH)
    layer = read(module, x)
    assert layer.axes == ("sample", "head")
    agree(layer, module.weights_and_values(x)[0].detach().double())


@pytest.mark.nightly
def test_samples_of_queries_come_in_order_where_keys_are_made_of_merged_ones():
    """LED's encoder merges samples and heads; with as many of either, samples were exchanged."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LEDConfig(
        vocab_size=19,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        attention_window=4,
        max_encoder_position_embeddings=32,
        max_decoder_position_embeddings=32,
    )
    model = transformers.LEDModel(config).eval()
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.randn_like(part) / part.shape[-1] ** 0.5)
    ids = torch.arange(32).reshape(4, 8) % 17 + 2
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :6].flip(-1)}
    with torch.no_grad():
        expected = model(**given, output_attentions=True).cross_attentions[0]
    layer = dsf.inspect(model, **given)["decoder.layers.0.encoder_attn"]
    assert layer.axes == ("sample", "head")
    torch.testing.assert_close(layer.map().float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_first", [True, False], ids=["norm first", "convolution first"])
@pytest.mark.parametrize("norm", [partial(nn.GroupNorm, 2), nn.InstanceNorm1d])
def test_norms_of_images_do_not_take_places_for_channels(norm, is_first):
    filters = [nn.Conv1d(4, 4, 3, padding=1, bias=False)]
    norms = [norm(4) for _ in range(3)]
    model = nn.Sequential(*norms, *filters) if is_first else nn.Sequential(*filters, *norms)
    found = dsf.inspect(drawn(model), tokens(2, 4, 8))
    assert [layer.name for layer in found] == ["0", "1", "2", "3"]
    assert all(layer.is_exact for layer in found)
    assert found.unsupported == ()


class Between(nn.Module):
    """A mixer of tokens between two projections of features; tokens are as many as these."""

    def __init__(self, mixer):
        super().__init__()
        self.inp, self.mixer, self.out = nn.Linear(8, 8), mixer, nn.Linear(8, 8)

    def forward(self, x):
        return self.out(self.mixer(self.inp(x)))


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x):
        return (self.base(x.mT) + self.up(self.down(x.mT))).mT


class FixedPoint(nn.Module):
    """One layer, called again and again (DEQ)."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x):
        found = x
        for _ in range(5):
            found = torch.tanh(self.mix(found.mT).mT + x)
        return found


class Recalls(nn.Module):
    """A cell that projects a token and its state side by side."""

    def __init__(self):
        super().__init__()
        self.gate, self.new = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x):
        state, found = torch.zeros_like(x[:, 0]), []
        for token in x.unbind(1):
            both = torch.cat([token, state], dim=-1)
            state = torch.lerp(state, self.new(both).tanh(), self.gate(both).sigmoid())
            found.append(state)
        return torch.stack(found, dim=1)


class Positions(nn.Module):
    """Learned weights of pairs of places, exponentials of keys (AFT)."""

    def __init__(self):
        super().__init__()
        self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8)
        self.pairs = nn.Parameter(torch.zeros(8, 8))

    def forward(self, x):
        keys, pairs = self.key(x).exp(), self.pairs.exp()
        return (pairs @ (keys * self.value(x))) / (pairs @ keys)


class Normed(nn.Module):
    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[1:])


@pytest.mark.parametrize("kind", [LowRank, FixedPoint, Recalls, Positions, Normed])
def test_more_sums_over_tokens_than_over_features_make_no_features_of_tokens(kind):
    with pytest.raises(NothingCapturedError, match="mixer") as told:
        dsf.inspect(drawn(Between(kind())), tokens(8, 8, 8), probe=())
    assert "inp (" not in str(told.value)
    assert "out (" not in str(told.value)


class OfWholeNumbers(nn.Module):
    """Attention over tokens with a whole number for every feature."""

    def __init__(self, way):
        super().__init__()
        self.way, self.embed, self.inner = way, nn.Embedding(5, 3), modules.Attention()
        self.enter = nn.Linear(4 * 3 if way == "embedded" else 4, WIDTH)

    def forward(self, x):
        x = self.embed(x).flatten(2) if self.way == "embedded" else x.float()
        return self.inner(self.enter(x))


def whole_numbers(*shape):
    return torch.randint(5, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_whole_numbers_that_weights_sum_over_are_features(dtype):
    module, x = drawn(OfWholeNumbers("cast")), whole_numbers(SIZE, 6, 4).to(dtype)
    agree(read(module, x), module.inner.weights(module.enter(x.float())))


def test_ids_are_features_where_it_is_said_which_axis_holds_tokens():
    module, x = drawn(OfWholeNumbers("embedded")), whole_numbers(SIZE, 6, 4)
    (layer,) = dsf.inspect(module, x, tokens=1)
    agree(layer, module.inner.weights(module.enter(module.embed(x).flatten(2))))


@pytest.mark.parametrize(
    "mix",
    [
        lambda weights, x: weights @ x,
        lambda weights, x: weights.tril() @ x,
        lambda weights, x: torch.baddbmm(x, weights, x) - x,
        lambda weights, x: torch.stack([each @ one for each, one in zip(weights, x, strict=True)]),
    ],
    ids=["product", "causal", "with a sum", "sample by sample"],
)
def test_weights_alone_sum_over_tokens_where_that_is_said(mix):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.along = nn.Parameter(torch.zeros(SIZE, WIDTH, WIDTH))

        def forward(self, x):
            return mix(self.along, x)

    module, x = drawn(Fixed()), tokens(SIZE, WIDTH, 6)
    with pytest.raises(NothingCapturedError, match="pass tokens="):
        dsf.inspect(module, x)
    (layer,) = dsf.inspect(module, x, tokens=1)
    expected = mix(module.along.detach(), torch.eye(WIDTH).expand(SIZE, -1, -1))
    agree(layer, expected[:, None].double())


def test_words_of_several_sentences_are_tokens():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(5, WIDTH), nn.Linear(6, 6)

        def forward(self, x):
            return self.mix(self.embed(x).mT).mT

    module = Words()
    layer = read(module, whole_numbers(SIZE, 4, 6))
    assert layer.map().shape[-2:] == (6, 6)


class Ahead(nn.Module):
    """Every token and the next one, in which the last is there twice, before an attention."""

    def __init__(self):
        super().__init__()
        self.inp, self.inner = nn.Linear(WIDTH, WIDTH), modules.Attention()

    def forward(self, x):
        x = self.inp(x)
        return self.inner(x + torch.cat([x[:, 1:], x[:, -1:]], dim=1))


def test_a_look_at_the_next_token_keeps_the_numbers_of_the_tokens():
    layer = dsf.inspect(drawn(Ahead()), tokens())["inner"]
    assert layer.is_exact
    places = torch.arange(WIDTH).expand(SIZE, SIZE, -1)
    torch.testing.assert_close(layer.row_tokens, places)
    torch.testing.assert_close(layer.column_tokens, places)


class Series(nn.Module):
    """One convolution for the series of all variables, then weights over time."""

    def __init__(self, is_last, features=4):
        super().__init__()
        self.over, self.is_last = nn.Conv1d(1, features, 3, padding=1), is_last
        self.head = nn.Linear(8 * features, 5)

    def forward(self, x):
        x = x if self.is_last else x.mT
        made = self.over(x.flatten(0, 1).unsqueeze(1)).tanh().flatten(1)
        made = self.head(made).unflatten(0, x.shape[:2])
        return made if self.is_last else made.mT


@pytest.mark.parametrize("variables", [3, 8])
@pytest.mark.parametrize("is_last", [True, False])
def test_time_that_a_shared_convolution_runs_over_is_not_features(is_last, variables):
    x = tokens(2, variables, 8) if is_last else tokens(2, 8, variables)
    found = dsf.inspect(drawn(Series(is_last)), x)
    assert [layer.name for layer in found] == ["over", "head"]
    assert all(layer.column_tokens.unique().tolist() == [*range(8)] for layer in found)
    assert all(layer.is_exact for layer in found)
    assert found.unsupported == ()


class Sounds(nn.Module):
    """A convolution over frequencies and time, whose frequencies become features of time."""

    def __init__(self, mixer, channels):
        super().__init__()
        self.over, self.embed = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4 * 5, WIDTH)
        self.mixer = mixer()

    def forward(self, x):
        x = self.over(x).tanh().permute(0, 3, 1, 2).flatten(2)
        made = self.mixer(x if isinstance(self.mixer, nn.GRU) else self.embed(x))
        return made[0] if isinstance(made, tuple) else made


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "mixer",
    [modules.Attention, modules.ByInterface, partial(nn.GRU, 20, WIDTH, batch_first=True)],
)
def test_frequencies_that_weights_sum_up_are_features_of_time(mixer, channels):
    model, x = drawn(Sounds(mixer, channels)), tokens(2, channels, 5, 7)
    found = dsf.inspect(model, x)
    (layer,) = (one for one in found if one.name.startswith("mixer"))
    assert layer.is_exact
    assert layer.map().shape[-2:] == (7, 7)
    assert layer.row_tokens.unique().tolist() == [*range(7)]
    places = 5 * 7 if channels > 1 else 7
    assert found["over"].map().shape[-2:] == (places, places)


class Flat(nn.Module):
    def __init__(self, before):
        super().__init__()
        self.before, self.head = before, nn.Linear(30, 4)

    def forward(self, x):
        return self.head(self.before(x).flatten(1))


@pytest.mark.parametrize("before", [nn.Identity(), nn.Tanh(), nn.Softplus()])
def test_which_axis_holds_tokens_is_asked_where_weights_sum_over_both_at_once(before):
    model, x = drawn(Flat(before)), tokens(2, 5, 6)
    with pytest.raises(InspectionError, match="Pass tokens=1 or tokens=2"):
        dsf.inspect(model, x)
    assert dsf.inspect(model, x, tokens=1)["head"].map().shape[-1] == 5
    assert dsf.inspect(model, x, tokens=2)["head"].map().shape[-1] == 6


@pytest.mark.parametrize("count", [6, 8])
def test_a_norm_over_groups_of_tokens_makes_no_features_of_them(count):
    norm = nn.GroupNorm(2, count)
    found = _told(drawn(nn.Sequential(nn.Linear(6, 6), norm, nn.Linear(6, 6))), tokens(2, count, 6))
    assert found == {"1"}
    with pytest.raises(InspectionError, match="Pass tokens=1 or tokens=2"):
        dsf.inspect(drawn(nn.Sequential(norm, nn.Linear(6, 6))), tokens(2, count, 6))


def _told(model, x):
    try:
        found = dsf.inspect(model, x)
    except NothingCapturedError as error:
        return {name for name in "012" if f" {name} (" in str(error)}
    return {one.name for one in (*found, *found.unsupported)}


def attention(*, batch_first):
    return nn.MultiheadAttention(8, 2, batch_first=batch_first)


class Both(nn.Module):
    """Mixes along one axis of its input, and then along another."""

    def __init__(self, first, second):
        super().__init__()
        self.embed, self.first, self.second = nn.Embedding(9, 8), first, second

    def forward(self, ids):
        x = self.embed(ids)
        for one in (self.first, self.second):
            is_attention = isinstance(one, nn.MultiheadAttention)
            made = one(x, x, x) if is_attention else one(x)
            x = x + (made if isinstance(made, torch.Tensor) else made[0])
        return x


class Sums(nn.Module):
    def forward(self, x):
        return x.cumsum(0)


class Rows(nn.Module):
    """An attention over the rows of a table of tokens, those of all columns side by side."""

    def __init__(self):
        super().__init__()
        self.inner = attention(batch_first=True)

    def forward(self, x):
        rows = x.transpose(1, 2).flatten(0, 1)
        return self.inner(rows, rows, rows)[0].unflatten(0, (len(x), -1)).transpose(1, 2)


class Columns(Rows):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(
    ("first", "second", "shape", "names"),
    [
        (attention(batch_first=True), attention(batch_first=False), (4, 5), ("window", "window")),
        (attention(batch_first=True), Sums(), (4, 4), ("window", "window")),
        (nn.LSTM(8, 8), nn.GRU(8, 8, batch_first=True), (4, 5), ("window", "window")),
        (Rows(), Columns(), (2, 4, 5), ("window", "window")),
        (attention(batch_first=False), nn.LSTM(8, 8), (4, 5), ("sample", "sample")),
        (attention(batch_first=True), nn.GRU(8, 8, batch_first=True), (4, 5), ("sample", "sample")),
    ],
)
def test_what_tokens_meet_along_elsewhere_is_not_called_samples(first, second, shape, names):
    ids = torch.arange(torch.Size(shape).numel()).reshape(shape) % 9
    inspection = dsf.inspect(drawn(Both(first, second)), ids)
    assert tuple(layer.axes[0] for layer in inspection) == names
    assert all(layer.is_exact for layer in inspection)
    assert [len(layer.contribution_norms()) for layer in inspection] == [
        layer.system.batch[0] for layer in inspection
    ]
