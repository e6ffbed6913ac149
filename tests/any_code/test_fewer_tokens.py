"""Coarser and fewer tokens: patches beside words, every second token, convolutions before both."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import NothingCapturedError
from tests.any_code.modules import Attention, drawn, tokens

WORDS, SIDE, CHANNELS = 3, 2, 4


class Joint(nn.Module):
    """Two attentions over the patches of an image and the words of a text together."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, 2, stride=2)
        self.layers = nn.ModuleList(Attention(width=CHANNELS, heads=2) for _ in range(2))

    def leak(self, patches, words):
        return patches, words

    def forward(self, image, words):
        patches = self.patches(image).flatten(2).mT
        patches, words = self.leak(patches, words)
        x = torch.cat([words, patches], dim=1)
        for layer in self.layers:
            x = x + layer(x)
        return x[:, words.shape[1] :]


class WordsInPatches(Joint):
    """All patches get the first word."""

    def leak(self, patches, words):
        return patches + words[:, :1], words


class PatchesInWords(Joint):
    """All words get the first patch."""

    def leak(self, patches, words):
        return patches, words + patches[:, :1]


def in_joint(kind):
    image, words = tokens(2, 3, 2 * SIDE, 2 * SIDE), tokens(2, WORDS, CHANNELS)
    return dsf.inspect(drawn(kind()), image, words)


def test_patches_move_where_their_pixels_are_replaced_beside_words():
    found = in_joint(Joint)
    assert not found.unsupported
    assert all(layer.is_exact for layer in found)


@pytest.mark.parametrize("kind", [WordsInPatches, PatchesInWords])
def test_what_one_sequence_sends_to_the_other_is_found(kind):
    assert in_joint(kind).unsupported


class EverySecond(nn.Module):
    """Attention over every second token, of which a single one may be sent to the others."""

    def __init__(self, sent=None):
        super().__init__()
        self.first, self.second = Attention(is_fused=False), Beside(sent)

    def forward(self, x):
        x = x + self.first(x)
        return self.second(x[:, ::2])


class Beside(Attention):
    def __init__(self, sent):
        super().__init__(is_fused=False)
        self.sent, self.act = sent, nn.Hardswish()

    def forward(self, x):
        y = x + super().forward(self.act(x))
        return y if self.sent is None else y + x[:, self.sent, None]


def test_every_second_token_is_replaced_too():
    found = dsf.inspect(drawn(EverySecond()), tokens())
    assert not found.unsupported
    module, x = drawn(EverySecond()), tokens()
    with torch.no_grad():
        x = (x + module.first(x))[:, ::2]
        wanted = module.second.weights(module.second.act(x))
    torch.testing.assert_close(found["second"].map().double(), wanted, rtol=1e-4, atol=1e-5)


def test_one_of_every_second_token_sent_to_the_others_is_found():
    assert dsf.inspect(drawn(EverySecond(3)), tokens()).unsupported


class Sound(nn.Module):
    """Convolutions over samples of sound before coarser tokens are made of these."""

    def __init__(self, *further):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), *further)
        self.coarser = nn.Conv1d(4, CHANNELS, 4, stride=4)
        self.attention = Attention(width=CHANNELS, heads=2)

    def forward(self, x):
        return self.attention(self.coarser(self.fine(x)).mT)


def in_sound(*further):
    return dsf.inspect(drawn(Sound(*further)), tokens(1, 2, 12))


def test_the_first_convolution_is_read_where_more_mix_the_same_tokens():
    found = in_sound(nn.GELU(), nn.Conv1d(4, 4, 3, padding=1))
    assert not found.unsupported
    assert [layer.name for layer in found] == ["fine.0", "fine.2", "attention"]


def test_the_first_convolution_alone_makes_the_tokens():
    assert [layer.name for layer in in_sound()] == ["attention"]


def test_a_norm_over_the_same_tokens_is_listed_with_the_first_convolution():
    found = in_sound(nn.GELU(), nn.Conv1d(4, 4, 3, padding=1), nn.LayerNorm(12))
    told = {layer.name for layer in found} | {one.name for one in found.unsupported}
    assert {"fine.0", "fine.2", "fine.3"} <= told


class Convolved(nn.Module):
    """A convolution that returns fewer tokens than it is given."""

    def __init__(self, dilation=1):
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, CHANNELS, 3, dilation=dilation)

    def forward(self, x):
        return self.conv(x.mT).mT

    def map(self, reads):
        """``output input time read`` by formula, in float64."""
        weight, step = self.conv.weight.detach().double(), self.conv.dilation[0]
        found = weight.new_zeros(CHANNELS, CHANNELS, reads - 2 * step, reads)
        for row in range(reads - 2 * step):
            found[:, :, row, row : row + 3 * step : step] = weight
        return found


class Reflected(Convolved):
    """The same of tokens that are reflected at both ends."""

    def forward(self, x):
        return self.conv(nn.functional.pad(x.mT, (1, 1), mode="reflect")).mT


class BentBeside(Convolved):
    """A convolution that is no module, and a mean of all tokens that is bent."""

    def forward(self, x):
        y = nn.functional.conv1d(x.mT, self.conv.weight).mT
        return y + x.mean(dim=1, keepdim=True).relu()


class Placed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_convolution_without_padding_is_read_from_more_tokens_to_fewer(dilation):
    module = drawn(Placed(Convolved(dilation)))
    (layer,) = found = dsf.inspect(module, tokens(2, 7, CHANNELS))
    assert layer.is_exact
    assert not found.unsupported
    torch.testing.assert_close(layer.map()[0].double(), module.inner.map(7))
    assert layer.row_order[0, 0, 0].tolist() == list(range(dilation, 7 - dilation))


def test_a_reflected_token_has_two_columns():
    module = drawn(Placed(Reflected()))
    (layer,) = found = dsf.inspect(module, tokens(2, 5, CHANNELS))
    assert layer.is_exact
    assert not found.unsupported
    torch.testing.assert_close(layer.map()[0].double(), module.inner.map(7))
    assert layer.row_order[0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert layer.column_order[0, 0, 0].tolist() == [1, 0, 1, 2, 3, 4, 3]


class Past(Convolved):
    """A convolution of every token and the two before it, which are laid before the first."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        return x + self.conv(nn.functional.pad(x.mT, (2, 0), mode=self.mode)).mT


@pytest.mark.parametrize(
    ("mode", "before"), [("reflect", [2, 1]), ("replicate", [0, 0]), ("circular", [3, 4])]
)
def test_a_convolution_over_the_past_stays_at_its_tokens(mode, before):
    module = drawn(Placed(Past(mode)))
    (layer,) = found = dsf.inspect(module, tokens(2, 5, CHANNELS))
    assert layer.is_exact
    assert not found.unsupported
    torch.testing.assert_close(layer.map()[0].double(), module.inner.map(7))
    assert layer.row_order is None or layer.row_order[0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert layer.column_order[0, 0, 0].tolist() == [*before, 0, 1, 2, 3, 4]


def test_a_bent_mean_beside_a_convolution_without_padding_is_found():
    found = dsf.inspect(drawn(Placed(BentBeside())), tokens(2, 7, CHANNELS))
    assert found.unsupported or not found[0].is_exact


class Learnt(nn.Module):
    """Learnt queries that attend to each other, then to the tokens."""

    def __init__(self, kind=Attention):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, 3, CHANNELS))
        self.among = kind(width=CHANNELS, heads=2)
        self.reading = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def made(self, x):
        return self.queries.expand(len(x), -1, -1)

    def forward(self, x):
        queries = self.made(x)
        self.among.tokens = x
        queries = queries + self.among(queries)
        return self.reading(queries, x, x)[0]


class Summed(Learnt):
    """The same queries with a sum of all tokens, which leaves torch."""

    def made(self, x):
        return super().made(x) + torch.tensor(x.sum(dim=1).tolist())[:, None]


class Pooling(Attention):
    """An attention that adds the mean of tokens that it has from elsewhere."""

    def forward(self, x):
        return super().forward(x) + self.tokens.mean(dim=1, keepdim=True)


def of_learnt(module):
    return dsf.inspect(drawn(module), tokens(2, 6, CHANNELS))


def test_learnt_queries_hold_no_token_that_their_attention_could_mix():
    module = Learnt()
    found = of_learnt(module)
    assert not found.unsupported
    wanted = module.among.weights(module.queries.expand(2, -1, -1))
    torch.testing.assert_close(found["among"].map().double(), wanted, rtol=1e-4, atol=1e-5)


class Unmerged(nn.Module):
    """Attention that returns ``sample token head channel``."""

    def forward(self, q, k, v):
        return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v).transpose(1, 2)


class Inner(Attention):
    """Attention whose heads another module mixes and it merges."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.inner = Unmerged()

    def forward(self, x):
        return self.o(self.inner(*self.parts(x)).flatten(2))


def test_attention_over_learnt_queries_is_read_where_it_leaves_heads_apart():
    module = Learnt(Inner)
    found = of_learnt(module)
    assert not found.unsupported
    wanted = module.among.weights(module.queries.expand(2, -1, -1))
    layer = found["among.inner"]
    torch.testing.assert_close(layer.map().double(), wanted, rtol=1e-4, atol=1e-5)
    assert layer.is_exact


@pytest.mark.filterwarnings("ignore:among:dsf.inspection.RoundingWarning")
@pytest.mark.parametrize("module", [Summed(), Learnt(Pooling)], ids=["summed", "pooling"])
def test_learnt_queries_that_get_tokens_on_a_hidden_way_are_told(module):
    found = of_learnt(module)
    assert "among" in {one.name for one in found.unsupported}


class PooledKeys(nn.Module):
    """Attention whose keys are of every two tokens, and whose queries are of neighbours."""

    def __init__(self):
        super().__init__()
        self.pairs = nn.Conv1d(CHANNELS, CHANNELS, 2, stride=2)
        self.local = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x):
        pairs = self.pairs(x.mT).mT[:, None]
        queries = self.local(x.mT).mT[:, None]
        return nn.functional.scaled_dot_product_attention(queries, pairs, pairs)[:, 0]


def test_rows_of_one_convolution_are_not_taken_for_those_of_another():
    found = dsf.inspect(drawn(PooledKeys()), tokens(1, 6, CHANNELS))
    assert not found.unsupported
    assert {layer.name: layer.map().shape[-2:] for layer in found} == {
        "pairs": (3, 6),
        "local": (6, 6),
        "PooledKeys": (6, 3),
    }
    assert all(layer.is_exact for layer in found)


class OfJoints(nn.Module):
    """A graph over joints in its own code, then a mixer over time that is read, as in ST-GCN."""

    def __init__(self, over_time):
        super().__init__()
        self.inp, self.over_time = nn.Linear(3, CHANNELS), over_time
        self.graph = nn.Parameter(torch.zeros(5, 5))

    def forward(self, x):
        x = self.inp(x)
        y = torch.einsum("btvc,vw->bwtc", x, self.graph).flatten(0, 1)
        y = self.over_time(y)
        y = y[0] if isinstance(y, tuple) else y
        return x + y.unflatten(0, (-1, 5)).transpose(1, 2)


class OverTime(nn.Conv1d):
    def forward(self, x):
        return super().forward(x.mT).mT


@pytest.mark.parametrize(
    "over_time",
    [
        lambda: nn.GRU(CHANNELS, CHANNELS, batch_first=True),
        lambda: OverTime(CHANNELS, CHANNELS, 3, padding=1),
        lambda: Attention(width=CHANNELS, heads=2),
    ],
    ids=["recurrence", "convolution", "attention"],
)
def test_a_graph_before_a_mixer_over_time_is_not_hidden_by_it(over_time):
    x = torch.randn(2, 6, 5, 3, generator=torch.Generator().manual_seed(1))
    found = dsf.inspect(drawn(OfJoints(over_time())), x)
    names = {layer.name for layer in found} | {one.name for one in found.unsupported}
    assert "OfJoints" in names
    assert any(name.startswith("over_time") for name in names)


@pytest.mark.parametrize("kind", ["convolution", "unfolded"])
def test_new_tokens_that_meet_in_the_module_that_makes_them_are_listed(kind):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter, self.project = nn.Conv1d(3, 9, 4, stride=4), nn.Linear(12, 9)
            self.inp, self.out = nn.Linear(9, 9), nn.Linear(9, 5)

        def forward(self, x):
            x = (
                self.filter(x).mT
                if kind == "convolution"
                else self.project(x.unfold(-1, 4, 4).transpose(1, 2).flatten(2))
            )
            return self.out(self.inp(x).tanh().cumsum(1))

    with pytest.raises(NothingCapturedError, match=r"Patches.*mixes tokens"):
        dsf.inspect(drawn(Patches()), tokens(2, 3, 20))


class RunningSum(nn.Module):
    """Along the places of a grid ``sample channel *place``, in their order."""

    def forward(self, x):
        return x.flatten(2).tanh().cumsum(-1).unflatten(2, x.shape[2:])


class Shuffled(nn.Module):
    """A mixer of groups of pixels that a shuffle laid into channels, which a convolution joins."""

    def __init__(self, size):
        super().__init__()
        self.inp, self.down = nn.Conv2d(6, 6, 1), nn.Conv2d(24, 14, size, padding=size // 2)
        self.sums, self.up = RunningSum(), nn.Conv2d(14, 24, 1)

    def forward(self, x):
        x = nn.functional.pixel_unshuffle(self.inp(x), 2)
        return nn.functional.pixel_shuffle(self.up(self.sums(self.down(x))), 2)


class Shifted(nn.Module):
    """Half of the channels are those of the token before, then a filter of one place."""

    def __init__(self):
        super().__init__()
        self.inp, self.down, self.sums = nn.Linear(6, 6), nn.Conv1d(6, 9, 1), RunningSum()

    def forward(self, x):
        x = self.inp(x)
        before = nn.functional.pad(x[:, :-1, :3], (0, 0, 1, 0))
        return self.sums(self.down(torch.cat([before, x[..., 3:]], dim=-1).mT))


@pytest.mark.parametrize(
    ("model", "shape"),
    [(Shuffled(1), (6, 4, 8)), (Shuffled(3), (6, 4, 8)), (Shifted(), (8, 6))],
    ids=["shuffle", "shuffle and window", "shift"],
)
def test_what_mixes_behind_tokens_that_were_laid_into_channels_is_found(model, shape):
    found = dsf.inspect(drawn(model), tokens(2, *shape))
    read = {layer.name: layer for layer in found}
    assert {*read, *(one.name for one in found.unsupported)} == {"down", "sums"}
    if "sums" in read:
        lower = torch.ones(8, 8, dtype=torch.float64).tril()
        torch.testing.assert_close(read["sums"].map()[0, 0], lower)


class OfVideo(nn.Module):
    """Patches of a video attend to fewer of them, which are made coarser in space alone."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv3d(3, CHANNELS, (1, 2, 2), (1, 2, 2))
        self.pool = nn.Conv3d(CHANNELS, CHANNELS, 3, (1, 2, 2), padding=1, groups=CHANNELS)
        self.attend = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, video):
        x = self.patches(video).flatten(2).mT
        fewer = self.pool(x.mT.unflatten(2, (2, 4, 4))).flatten(2).mT
        return self.attend(x, fewer, fewer, need_weights=False)[0]


def test_a_video_that_is_made_coarser_in_space_has_other_tokens_in_time_too():
    found = dsf.inspect(drawn(OfVideo()), torch.randn(2, 3, 2, 8, 8))
    assert "attend" in {layer.name for layer in found}
    assert not found.unsupported
