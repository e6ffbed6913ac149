"""A mixer is read, or it is listed: nothing is exact of which it is not known that it is all."""

import collections
import dataclasses
import types

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import dsf
from dsf.inspection.capture.calls import Invocation
from dsf.inspection.causal.coordinates import NONE, Coordinates, numbered
from dsf.inspection.causal.replay import cells_drawn
from dsf.inspection.errors import InspectionError

WIDTH, TOKENS = 8, 6


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        return (self.q(x) @ self.k(x).mT / 3).softmax(-1) @ self.v(x)


class Sums(nn.Linear):
    """Mixes tokens, and not linearly, so that no map is read of it."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH)

    def forward(self, x):
        return torch.tanh(super().forward(x).cumsum(1))


class Model(nn.Module):
    """An attention, and whatever ``behind`` does to its output."""

    def __init__(self, behind, enter=lambda x: x, attention=None):
        super().__init__()
        self.inp, self.attn = nn.Linear(WIDTH, WIDTH), attention or Attention()
        self.sums, self.behind, self.enter = Sums(), behind, enter

    def forward(self, x):
        x = self.inp(self.enter(x))
        return self.behind(self, x + self.attn(x))


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


X = drawn(2, TOKENS, WIDTH)


def inspected(model, *inputs, **named):
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.4)
    return dsf.inspect(model.eval(), *inputs, **named)


def answered(inspection):
    """The names of what was read in full or is listed."""
    read = {layer.name for layer in inspection if layer.is_exact}
    return read | {one.name for one in inspection.unsupported}


def listed(inspection):
    return {one.name for one in inspection.unsupported}


@dataclasses.dataclass
class Batch:
    x: torch.Tensor


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize(
    ("held", "enter"),
    [
        (collections.UserDict(tokens=X), lambda batch: batch["tokens"]),
        (types.SimpleNamespace(x=X), lambda batch: batch.x),
        (Batch(X), lambda batch: batch.x),
        (Slotted(X), lambda batch: batch.x),
        (types.SimpleNamespace(inner=[Batch(X)]), lambda batch: batch.inner[0].x),
        (X.numpy(), torch.from_numpy),
        (X.tolist(), torch.tensor),
    ],
    ids=["user dict", "namespace", "dataclass", "slots", "nested", "array", "lists"],
)
def test_tokens_that_come_in_an_object(held, enter):
    inspection = inspected(Model(lambda s, x: x + s.sums(x), enter), held)
    names = answered(inspection)
    assert "attn" in names
    assert names & {"sums", "Model"}


class Leaves(Sums):
    """Hands over what it computes in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x, into=None):
        y = super().forward(x)
        if self.way == "attribute":
            self.y = y
            return None
        if self.way == "argument":
            into.copy_(y)
            return None
        ways = {"dataclass": Batch(y), "second": (x * 1.0, y), "dictionary": {"a": x * 1.0, "b": y}}
        return ways[self.way]


TAKEN = {
    "dataclass": lambda made, _s, _into: made.x,
    "second": lambda made, _s, _into: made[1],
    "dictionary": lambda made, _s, _into: made["b"],
    "attribute": lambda _made, s, _into: s.sums.y,
    "argument": lambda _made, _s, into: into,
}


@pytest.mark.parametrize("way", TAKEN)
def test_every_output_is_looked_at(way):
    def behind(s, x):
        into = torch.empty_like(x)
        return x + TAKEN[way](s.sums(x, into), s, into)

    model = Model(behind)
    model.sums = Leaves(way)
    inspection = inspected(model, X)
    if way == "dataclass":  # one output alone, which is read whatever holds it
        (layer,) = (one for one in inspection if one.name == "sums")
        assert layer.is_exact
        sums = torch.ones(TOKENS, TOKENS, dtype=torch.float64).tril()
        torch.testing.assert_close(layer.map(), sums.expand_as(layer.map()))
    else:
        assert listed(inspection) & {"sums", "Model"}


@pytest.mark.parametrize("way", ["second", "attribute", "object", "list"])
def test_an_attention_with_a_further_path_is_not_exact(way):
    class Further(Attention):
        def forward(self, given):
            x = given.tensors if way == "object" else given
            y, z = super().forward(x), torch.tanh(x.cumsum(1))
            self.left = z
            if way in ("second", "list"):
                return [y, z] if way == "list" else (y, z)
            return y if way == "attribute" else y + z

    class Around(Model):
        def forward(self, x):
            x = self.inp(x)
            y = self.attn(types.SimpleNamespace(tensors=x) if way == "object" else x)
            if way in ("second", "list"):
                return x + y[0] + y[1]
            return x + y + (self.attn.left if way == "attribute" else 0)

    inspection = inspected(Around(None, attention=Further()), X)
    assert "attn" in listed(inspection)
    assert not any(layer.is_exact for layer in inspection if layer.name == "attn")


@pytest.mark.parametrize("way", ["autocast", "in place", "counts"])
def test_what_cannot_be_repeated_is_not_exact(way):
    class Half(Attention):
        runs = 0

        def forward(self, x):
            if way == "in place":
                x *= 1.1
            Half.runs += 1
            if way == "counts" and Half.runs > 1:
                raise RuntimeError("it runs once")
            return super().forward(x) + torch.tanh(self.v(x).cumsum(1))

    class Around(Model):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
                return self.attn(self.inp(x))

    try:
        inspection = inspected(Around(None, attention=Half()), X)
    except InspectionError:
        return
    assert "attn" in listed(inspection)
    assert not any(layer.is_exact for layer in inspection)


def test_a_module_under_autocast_is_repeated_under_it():
    class Around(Model):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    model = Around(lambda s, x: x + s.sums.forward(x))
    model.sums = nn.Linear(WIDTH, WIDTH)
    inspection = inspected(model, X)
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported


@pytest.mark.parametrize("large", [-1e9, -torch.inf, 1.7e9])
@pytest.mark.parametrize("where", ["channel", "token"])
def test_a_large_number_hides_no_other(large, where):
    def behind(s, x):
        y = s.inp(x)
        y = y + torch.tanh(y.cumsum(1))
        size = WIDTH if where == "channel" else TOKENS
        place = torch.arange(size) == size - 1
        return y.masked_fill(place if where == "channel" else place[:, None], large)

    assert "Model" in listed(inspected(Model(behind), X))


@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-7])
def test_a_small_layer_scale_hides_nothing(scale):
    model = Model(lambda s, x: x + scale * torch.tanh(s.inp(x).cumsum(1)))
    assert "Model" in listed(inspected(model, X))


@pytest.mark.parametrize("pool", [torch.mean, torch.amax, torch.sum])
def test_tokens_beside_what_is_made_of_all(pool):
    class Pooled(Model):
        def __init__(self):
            super().__init__(None)
            self.wide = nn.Linear(2 * WIDTH, WIDTH)

        def forward(self, x):
            x = self.inp(x)
            x = x + self.attn(x)
            of_all = pool(x, dim=1, keepdim=True).expand_as(x)
            return self.wide(torch.cat([x, of_all], -1))

    assert "Pooled" in listed(inspected(Pooled(), X))


@pytest.mark.parametrize("make", ["one hot", "neighbours", "hash"])
def test_ids_that_are_computed_with(make):
    class Ids(Model):
        def __init__(self):
            super().__init__(None)
            self.table, self.other = nn.Embedding(20, WIDTH), nn.Embedding(20, WIDTH)

        def forward(self, ids):
            if make == "one hot":
                x = functional.one_hot(ids, 20).float() @ self.table.weight
            else:
                x = self.table(ids)
            x = x + self.attn(x)
            if make == "one hot":
                return x + self.sums(x)
            mixed = ids.roll(1, 1) if make == "neighbours" else ids.cumsum(1)
            return x + self.other((ids * 31 + mixed * 7) % 20)

    ids = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    inspection = inspected(Ids(), ids)
    if make == "one hot":
        assert [layer.is_exact for layer in inspection] == [True, True]
        assert listed(inspection) == set()
    else:
        assert listed(inspection) & {"Ids", "attn"}


def _by_lists(ids):
    return torch.tensor([[sum(row[: k + 1]) for k in range(len(row))] for row in ids.tolist()])


DECIDING = {
    "mask": lambda ids, x: torch.where((ids.cumsum(1) % 3 == 1)[..., None], x, -x),
    "filled": lambda ids, x: x.masked_fill((ids.flip(1) > 3)[..., None], 2.0),
    "number": lambda ids, x: x * (1 + int(ids.sum()) % 5),
    "branch": lambda ids, x: x if bool(ids.sum() % 2) else -x,
    "lists": lambda ids, x: x * _by_lists(ids)[..., None],
    "order": lambda ids, x: x * (1 + ids.argsort(1))[..., None],
    "weight": lambda ids, x: x * (ids.float().softmax(1))[..., None],
}


@pytest.mark.parametrize("way", DECIDING)
def test_ids_that_decide_about_other_tokens(way):
    class Ids(Model):
        def __init__(self):
            super().__init__(None)
            self.table = nn.Embedding(20, WIDTH)

        def forward(self, ids):
            x = self.table(ids)
            return DECIDING[way](ids, x + self.attn(x))

    ids = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    inspection = inspected(Ids(), ids)
    assert listed(inspection) & {"Ids", "attn"} or not any(x.is_exact for x in inspection)


@pytest.mark.parametrize(
    "hashed",
    [
        lambda ids: (ids * 31 + 1) % 20,
        lambda ids: (ids ^ 5).clamp(max=19),
        lambda ids: 19 - ids // 2,
    ],
    ids=["remainder", "bits", "quotient"],
)
def test_ids_that_are_hashed_one_by_one_stay_those_of_their_tokens(hashed):
    class Hashed(Model):
        def __init__(self):
            super().__init__(None)
            self.table, self.other = nn.Embedding(20, WIDTH), nn.Embedding(20, WIDTH)

        def forward(self, ids):
            x = self.table(ids) + self.other(hashed(ids))
            return x + self.attn(x)

    ids = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    inspection = inspected(Hashed(), ids)
    assert not listed(inspection)
    assert inspection[0].is_exact


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("way", ["encoder", "mean", "last state", "pre-hook"])
def test_what_tokens_do_around_a_recurrence(way, kind):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp = nn.Linear(WIDTH, WIDTH)
            self.e, self.d = (kind(WIDTH, WIDTH, batch_first=True) for _ in range(2))
            if way == "pre-hook":
                self.d.register_forward_pre_hook(lambda _, a: (a[0] + a[0].flip(1), *a[1:]))

        def forward(self, x, y):
            x, y = self.inp(x), self.inp(y)
            if way == "encoder":
                return self.d(y, self.e(x)[1])[0]
            if way == "mean":
                state = x.mean(1)[None]
                return self.d(x, (state, state) if kind is nn.LSTM else state)[0]
            out, state = self.d(x)
            if way == "last state":
                return x + (state[0] if kind is nn.LSTM else state)[0][:, None]
            return out

    inspection = inspected(Around(), X, drawn(2, 5, WIDTH))
    assert listed(inspection) & {"d", "Around"}
    if way in ("encoder", "mean"):
        assert not any(layer.is_exact for layer in inspection if layer.name.startswith("d["))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_recurrence_over_channels_has_no_map_of_tokens(kind):
    class Over(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.rnn, self.attn = kind(TOKENS, TOKENS, batch_first=True), Attention()

        def forward(self, x):
            x = self.inp(x)
            return self.out(self.attn(x + self.rnn(x.mT)[0].mT))

    inspection = inspected(Over(), X)
    assert [layer.name for layer in inspection] == ["attn"]
    assert "rnn" in listed(inspection)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [2, 0, 1, 5, 3, 4], [0, 1, 2, 3, 4, 5]])
def test_a_cell_has_the_tokens_of_its_calls(kind, order):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.cell = nn.Linear(WIDTH, WIDTH), kind(WIDTH, WIDTH)

        def forward(self, x):
            x, out, zero = self.inp(x), [None] * TOKENS, x.new_zeros(len(x), WIDTH)
            state = (zero, zero) if kind is nn.LSTMCell else zero
            for t in order:
                state = self.cell(x[:, t], state)
                out[t] = state[0] if kind is nn.LSTMCell else state
            return torch.stack(out, 1)

    layer = inspected(Steps(), X)[0]
    assert layer.row_tokens.reshape(-1, TOKENS)[0].tolist() == order
    assert layer.column_tokens.reshape(-1, TOKENS)[0].tolist() == order


STEPS_OF_ALL = {
    "slots": lambda state, x: (state @ x.mT).softmax(1) @ x,
    "messages": lambda _state, x: x.mT.softmax(-1) @ x,
    "pooled": lambda _state, x: x.mean(1, keepdim=True).expand(-1, WIDTH, -1),
}


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("given", STEPS_OF_ALL)
def test_a_cell_that_is_given_all_tokens_at_every_step_has_none_of_its_own(kind, given):
    class Refined(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.cell = nn.Linear(WIDTH, WIDTH), kind(WIDTH, WIDTH)
            self.first = nn.Parameter(torch.randn(WIDTH, WIDTH))

        def forward(self, x):
            x, state = self.inp(x), self.first.expand(len(x), -1, -1)
            for _ in range(3):
                made = STEPS_OF_ALL[given](state, x).flatten(0, 1)
                state = self.cell(made, state.flatten(0, 1)).unflatten(0, (len(x), -1))
            return (x @ state.mT).softmax(-1) @ state

    (layer,) = (one for one in inspected(Refined(), X) if one.name == "cell")
    assert layer.columns == "slot"
    assert bool((layer.row_tokens < 0).all())
    assert bool((layer.column_tokens < 0).all())


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_recurrence_backwards_has_its_tokens(kind):
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.rnn = nn.Linear(WIDTH, WIDTH), kind(WIDTH, WIDTH, batch_first=True)

        def forward(self, x):
            x = self.inp(x)
            return x + self.rnn(x.flip(1))[0].flip(1)

    layer = inspected(Backwards(), X)[0]
    assert layer.row_tokens[0, 0].tolist() == [5, 4, 3, 2, 1, 0]


class OverTokens(nn.Module):
    """One projection over tokens and one over channels: nothing tells which is which."""

    def __init__(self):
        super().__init__()
        self.time, self.channel = nn.Linear(TOKENS, TOKENS), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.time(x.mT).mT.relu()
        return x + self.channel(x).relu()


def test_a_tie_of_axes_is_a_question():
    with pytest.raises(InspectionError, match="tokens="):
        inspected(OverTokens(), X)


@pytest.mark.parametrize(("tokens", "path"), [(1, "time"), (2, "channel"), (-2, "time")])
def test_the_answer_settles_it(tokens, path):
    (layer,) = inspected(OverTokens(), X, tokens=tokens)
    assert layer.name == path


@pytest.mark.parametrize(
    "image",
    [
        torch.randint(0, 255, (1, 3, 12, 12), dtype=torch.uint8),
        torch.randint(0, 255, (1, 3, 12, 12)),
        torch.randint(0, 255, (1, 3, 12, 12), dtype=torch.int16),
    ],
)
def test_an_image_of_whole_numbers_is_an_image(image):
    class Patches(Model):
        def __init__(self):
            super().__init__(None)
            self.patch = nn.Conv2d(3, WIDTH, 4, 4)

        def forward(self, x):
            x = self.patch(x.float() / 255).flatten(2).mT
            return x + self.attn(x)

    (layer,) = inspected(Patches(), image)
    assert (layer.name, layer.map().shape[-1], layer.is_exact) == ("attn", 9, True)


class Gated(nn.Module):
    """A gated recurrence, token by token."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = torch.tanh(h + self.f(x[:, t])) * torch.sigmoid(self.g(x[:, t]))
            out.append(h)
        return torch.stack(out, 1)


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, x):
        return torch.tanh(self.conv(x.mT).mT)


@pytest.mark.parametrize("fine", [Gated, Sums, Depthwise])
@pytest.mark.parametrize("comes_back", [True, False])
def test_what_mixes_before_tokens_are_made_coarser(fine, comes_back):
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.rec, self.attn = nn.Conv1d(WIDTH, WIDTH, 2, 2), fine(), Attention()
            self.down = nn.Conv1d(WIDTH, WIDTH, 2, 2)
            self.up = nn.ConvTranspose1d(WIDTH, WIDTH, 2, 2)

        def forward(self, x):
            x = self.stem(x.mT).mT
            x = x + self.rec(x)
            h = self.down(x.mT).mT
            h = h + self.attn(h)
            return x + self.up(h.mT).mT if comes_back else h

    inspection = inspected(Pyramid(), drawn(2, 16, WIDTH))
    named = answered(inspection)
    assert any(name.startswith("rec") for name in named)


@pytest.mark.parametrize("way", ["series", "sum", "group norm"])
def test_a_norm_before_patches(way):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attn = nn.Linear(12, WIDTH), Attention()

        def forward(self, x):
            if way == "series":
                x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
            elif way == "sum":
                x = x / x.abs().sum(1, keepdim=True)
            else:
                x = functional.group_norm(x.mT, 1).mT
            x = self.patch(x.unfold(1, 4, 4).flatten(2))
            return x + self.attn(x)

    assert "Patches" in listed(inspected(Patches(), drawn(2, 24, 3)))


class Fused(Attention):
    def forward(self, x):
        return functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


@pytest.mark.parametrize("mixer", [Attention, Fused, nn.MultiheadAttention, nn.GRU])
@pytest.mark.parametrize("step", [2, 4])
def test_a_norm_before_patches_of_one_variate_with_a_head_over_all(mixer, step):
    class PatchTST(nn.Module):
        def __init__(self):
            super().__init__()
            further = {nn.GRU: (WIDTH,), nn.MultiheadAttention: (2,)}.get(mixer)
            self.patch = nn.Linear(4, WIDTH)
            self.mixer = mixer(WIDTH, *further, batch_first=True) if further else mixer()
            self.head = nn.Linear((24 // step) * WIDTH, 5)

        def forward(self, x):
            mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
            x = functional.pad(((x - mean) / std).mT, (0, step), mode="replicate")
            x = self.patch(x.unfold(-1, 4, step)[..., : 24 // step, :]).flatten(0, 1)
            y = self.mixer(x, x, x) if mixer is nn.MultiheadAttention else self.mixer(x)
            y = y[0] if isinstance(y, tuple) else y
            return self.head(y.flatten(1)).unflatten(0, (-1, 3)).mT * std + mean

    assert "PatchTST" in listed(inspected(PatchTST(), drawn(2, 24, 3)))


def _frames(x, way):
    if way == "stft":
        return torch.stft(x, 8, 4, window=torch.hann_window(8), return_complex=True).mT
    return torch.fft.rfft(x.unfold(-1, 8, 4 if way == "overlapping" else 8))


@pytest.mark.parametrize("way", ["overlapping", "disjoint", "stft"])
def test_what_mixes_the_frames_of_a_sound(way):
    class Sound(nn.Module):
        def __init__(self):
            super().__init__()
            self.mel, self.sums = nn.Linear(5, WIDTH), Sums()

        def forward(self, x):
            return self.sums(self.mel(_frames(x, way).abs()))

    inspection = inspected(Sound(), drawn(2, 40))
    (layer,) = (one for one in inspection if one.name == "sums")
    assert layer.map().shape[-1] == len(_frames(drawn(40), way))


@pytest.mark.parametrize("samples", [1, 2])
def test_a_mask_of_the_spectrogram_of_a_sound_is_not_silent(samples):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = nn.Linear(5, 5)

        def forward(self, x):
            found = _frames(x, "stft")
            found = found * self.mask(found.abs()).sigmoid()
            return torch.istft(found.mT, 8, 4, window=torch.hann_window(8), length=x.shape[-1])

    assert "Masked" in answered(inspected(Masked(), drawn(samples, 32)))


class Scalars(nn.Module):
    """A convolution over numbers that get features one by one, and a head over all of them."""

    def __init__(self):
        super().__init__()
        self.feature, self.head = nn.Linear(1, WIDTH), nn.Linear(TOKENS * WIDTH, 5)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        y = self.conv(self.feature(x.flatten().view(-1, TOKENS, 1)).mT)
        return self.head(torch.tanh(y).flatten(1)).unflatten(0, (*x.shape[: x.ndim - 1],))


@pytest.mark.parametrize("shape", [(2, TOKENS), (1, TOKENS), (2, 3, TOKENS)])
def test_numbers_that_get_features_are_none(shape):
    assert {"conv", "head"} <= answered(inspected(Scalars(), drawn(*shape)))


LOOKED_UP = {
    "embedding": lambda table, ids: functional.embedding(ids, table),
    "index": lambda table, ids: table[ids],
    "scaled": lambda table, ids: ids[..., None] / 20 * table[0],
}


@pytest.mark.parametrize("features", [(2, 3), (2,)])
@pytest.mark.parametrize("way", LOOKED_UP)
def test_ids_beside_features_of_their_sample(way, features):
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.own = nn.Embedding(20, WIDTH), nn.Linear(3, WIDTH)
            self.attn = Attention()

        def forward(self, ids, given):
            given = given if given.ndim > 1 else given[:, None].expand(-1, 3)
            x = LOOKED_UP[way](self.table.weight, ids) + self.own(given)[:, None]
            x = x + self.attn(x)
            return x + torch.tanh(x.cumsum(1)) * x

    ids = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    assert "Conditional" in listed(inspected(Conditional(), ids, drawn(*features)))


def test_the_model_is_as_it_was():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.places, self.seen = nn.Parameter(torch.zeros(TOKENS, WIDTH)), []
            self.kept, self.plain = {"runs": [0]}, torch.zeros(TOKENS, WIDTH)
            self.counter = types.SimpleNamespace(runs=0)
            self.register_buffer("total", torch.zeros(TOKENS, WIDTH))

        def forward(self, x):
            tokens = self.places[None]  # a view, as of one sample alone
            tokens += 0.1 * x
            self.total.view(-1)[:WIDTH].add_(1)
            torch.add(self.plain, 1, out=self.plain)
            self.seen.append(1)
            self.kept["runs"][0] += 1
            self.counter.runs += 1
            return self.rnn(tokens)[0]

    model = Writes().eval()
    inspected(model, drawn(1, TOKENS, WIDTH))
    assert not model.seen
    assert model.kept == {"runs": [0]}
    assert model.counter.runs == 0
    assert not model.total.any()
    assert not model.plain.any()


def test_flex_attention_is_followed_and_the_compiler_left_alone():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")

    class Flex(Attention):
        def forward(self, x):
            heads = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            return flex.flex_attention(*heads).transpose(1, 2).flatten(-2)

    model = Model(lambda _s, x: x, attention=Flex()).requires_grad_(False)
    inspection = inspected(model, X)
    assert "attn" in answered(inspection)
    assert not flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG


def by_distance(score, _sample, _head, row, column):
    return score - 0.3 * (row - column).abs()


def by_table(score, _sample, _head, row, column):
    return score * torch.tensor(0.7) ** (row - column).abs()


@pytest.mark.parametrize("change", [by_distance, by_table])
def test_what_one_operation_makes_of_constants_is_the_same_in_a_replay(change):
    flex = pytest.importorskip("torch.nn.attention.flex_attention")

    class Flex(Attention):
        def scores(self, x):
            rows = torch.arange(TOKENS)
            return change(self.q(x) @ self.k(x).mT, None, None, rows[:, None], rows)

        def forward(self, x):
            q, k, v = (part(x)[:, None] for part in (self.q, self.k, self.v))
            return flex.flex_attention(q, k, v, score_mod=change, scale=1.0)[:, 0]

    model = Flex().requires_grad_(False)
    (layer,) = inspected(model, X)
    torch.testing.assert_close(layer.map()[:, 0], model.scores(X).softmax(-1).double())


def test_an_operation_of_others_asks_for_the_type_of_numbers_of_the_run():
    @torch.library.custom_op("any_code::faded", mutates_args=())
    def faded(x: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(x.shape[1])
        return 0.7 ** (rows[:, None] - rows).abs() @ x

    class Faded(nn.Linear):
        def forward(self, x):
            return faded(super().forward(x).float())

    (layer,) = inspected(Faded(WIDTH, WIDTH), X)
    rows = torch.arange(TOKENS)
    wanted = 0.7 ** (rows[:, None] - rows).abs().double()
    torch.testing.assert_close(layer.map()[0, 0], wanted, atol=1e-6, rtol=0)


def test_a_vectorised_call_refuses_no_model():
    class Ensemble(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.w = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(3, WIDTH, WIDTH))
            self.rnn = nn.LSTM(WIDTH, WIDTH, batch_first=True)

        def forward(self, x):
            def one(w):
                return torch.func.functional_call(self.a, {"weight": w, "bias": self.a.bias}, (x,))

            return self.rnn(torch.vmap(one)(self.w).mean(0))[0]

    inspection = inspected(Ensemble(), X)
    assert [layer.name for layer in inspection] == ["rnn[layer 0]"]


def of_heads(q, k, v):
    return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def of_samples(q, k, v):
    return torch.vmap(of_heads)(*(part.unsqueeze(1) for part in (q, k, v))).squeeze(1)


def of_written_samples(q, k, v):
    def one(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    return torch.vmap(one)(*(part.unsqueeze(1) for part in (q, k, v))).squeeze(1)


def of_queries(q, k, v):
    def one(q):
        return ((q[:, None] @ k.mT).softmax(-1) @ v)[:, 0]

    return torch.vmap(one, in_dims=1, out_dims=1)(q)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("mix", [of_samples, of_written_samples, of_queries])
def test_a_vectorised_attention_is_read_and_hides_no_other(mix):
    class Vectorised(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x):
            return mix(*(part(x) for part in self.parts))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Attention(), Vectorised()

        def forward(self, x):
            x = x + self.first(x)
            return x + self.second(x)

    inspection = inspected(Both(), X)
    assert [layer.name for layer in inspection if layer.is_exact] == ["first", "second"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_refused_with_the_reason():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            parts = torch.nested.nested_tensor([x[0], x[1, :4]], layout=torch.jagged)
            n = self.q(parts).unflatten(-1, [2, -1]).transpose(1, 2)
            made = functional.scaled_dot_product_attention(n, n, n).transpose(1, 2)
            return made.flatten(-2).to_padded_tensor(0.0)

    with pytest.raises(InspectionError, match="runs on its inputs"):
        inspected(Nested().requires_grad_(False), X)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("is_encoder", [False, True])
def test_layers_that_take_nested_tensors_only_unheard_are_refused_with_the_reason(is_encoder):
    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
            if is_encoder:
                self.layer = nn.TransformerEncoder(self.layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            parts = torch.nested.nested_tensor([x[0], x[1, :4]])
            return self.layer(parts).to_padded_tensor(0.0)

    with pytest.raises(InspectionError, match="runs on its inputs"):
        inspected(Ragged(), X)


@pytest.mark.parametrize("name", ["o", "q", "v"])
def test_a_pruned_projection_is_read(name):
    class Projected(Attention):
        def __init__(self):
            super().__init__()
            self.o = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.o(super().forward(x))

    model = Model(lambda _s, x: x, attention=Projected())
    prune.l1_unstructured(model.attn.get_submodule(name), "weight", 0.3)
    inspection = inspected(model, X)
    assert [layer.name for layer in inspection] == ["attn"]
    assert not inspection.unsupported


def test_slots_of_slots_are_few():
    """The number of axes that are followed does not grow with the depth of a model."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.ModuleList(nn.Linear(TOKENS, TOKENS) for _ in range(12))
            self.inp, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.more = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(12))

        def forward(self, x):
            x = self.inp(x)
            for mix, more in zip(self.mix, self.more, strict=True):
                x = torch.cat([mix(x.mT).mT[:, :3], x[:, 3:]], 1)
                x = more(x).relu()
            return self.out(x)

    assert answered(inspected(Deep(), X))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("sizes", [(24,), (8, 8)])
def test_several_convolutions_before_tokens_are_made_are_all_asked(depth, sizes):
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[len(sizes)]

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = kind(1, WIDTH, 3, padding=1)
            self.further = nn.ModuleList(kind(WIDTH, WIDTH, 3, padding=1) for _ in range(depth))
            self.patches, self.attn = kind(WIDTH, WIDTH, 4, stride=4), Attention()

        def forward(self, x):
            x = self.first(x)
            for one in self.further:
                x = x + torch.tanh(one(x))
            x = self.patches(x).flatten(2).mT
            return x + self.attn(x)

    inspection = inspected(Stack(), drawn(2, 1, *sizes))
    found = {layer.name for layer in inspection} | listed(inspection)
    assert {"first", *(f"further.{k}" for k in range(depth))} <= found


def test_a_token_is_found_among_places_that_are_mostly_padding():
    x = torch.zeros(1, 5000, WIDTH)
    whole = numbered(x, "x")
    planes = {axis: plane.clone() for axis, plane in whole.planes.items()}
    for plane in planes.values():
        plane[:, 3:] = NONE
    asked = Invocation(nn.Identity(), (x,), {}, [], given=[Coordinates(x.shape, planes)])
    (cell,) = cells_drawn(asked, 0)
    assert {axis.number for axis in cell} == {axis.number for axis in whole.positions}
    assert all(0 <= index < 3 for axis, index in cell.items() if axis.number == 1)


BESIDE = {
    "one product": lambda q, k, w: torch.einsum("bid,bjd,bjw->biw", q, k, w),
    "two products": lambda q, k, w: (q @ k.mT) @ w,
    "a state": lambda q, k, w: q @ (k.mT @ w),
    "the largest score": lambda q, k, w: (q @ k.mT).amax(-1, keepdim=True) + w,
    "the sum of scores": lambda q, k, w: (q @ k.mT).sum(-1, keepdim=True) + w,
}


class Beside(Attention):
    """An attention, and what is made of its queries, keys and values beside it."""

    def __init__(self, beside, *, is_fused):
        super().__init__()
        self.beside, self.is_fused = beside, is_fused

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.is_fused:
            parts = (part[:, None] for part in (q, k, v))
            mixed = functional.scaled_dot_product_attention(*parts)[:, 0]
        else:
            mixed = (q @ k.mT / 3).softmax(-1) @ v
        return mixed + self.beside(q, k, v)


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("way", BESIDE)
def test_a_second_product_beside_an_attention_is_not_taken_for_its_own(way, is_fused):
    attention = Beside(lambda q, k, v: BESIDE[way](q, k, torch.tanh(v)) / 50, is_fused=is_fused)
    inspection = inspected(Model(lambda _, x: x, attention=attention), X)
    assert "attn" in listed(inspection)


GATES = {
    "a gate": lambda v: v * v.softmax(1),
    "a sharp gate": lambda v: v * (9 * v).softmax(1),
    "logarithms": lambda v: v.log_softmax(1),
}


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("way", GATES)
def test_a_softmax_over_tokens_beside_an_attention_is_not_taken_for_its_own(way, is_fused):
    attention = Beside(lambda *parts: GATES[way](parts[-1]), is_fused=is_fused)
    inspection = inspected(Model(lambda _, x: x, attention=attention), X, probe=())
    assert "attn" in listed(inspection)
    assert not any(layer.is_exact for layer in inspection)


SPOILED = {
    "everywhere": lambda y: y + torch.nan,
    "in a token": lambda y: torch.cat([y[:, :1] + torch.nan, y[:, 1:]], 1),
    "in a sample": lambda y: torch.cat([y[:1] + torch.nan, y[1:]]),
    "in a channel": lambda y: torch.cat([y[..., :1] + torch.nan, y[..., 1:]], -1),
}


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("is_of_model", [False, True])
def test_nan_hides_no_mixing_of_tokens(spoiled, is_of_model):
    class Spoiled(Sums):
        def forward(self, x):
            return SPOILED[spoiled](super().forward(x))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.sums = Attention(), Spoiled()

        def forward(self, x):
            x = self.attn(x)
            return SPOILED[spoiled](x.cumsum(1).tanh()) if is_of_model else self.sums(x)

    inspection = inspected(Both(), X)
    assert inspection["attn"].is_exact
    assert [part.name for part in inspection.unsupported] == ["Both" if is_of_model else "sums"]
