"""What a mixer returns or leaves besides its output is in no map: whoever uses it is listed."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.errors import InspectionError
from tests.any_code.structures import MODEL, Stranger

TOKENS = 6


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Around(nn.Module):
    """Adds to its tokens what ``use`` makes of a mixer."""

    def __init__(self, mixer, use):
        super().__init__()
        self.inp, self.out = nn.Linear(MODEL, MODEL), nn.Linear(MODEL, MODEL)
        self.mixer, self.use = mixer, use

    def forward(self, x):
        x = self.inp(x)
        return self.out(x + self.use(self.mixer, x))


def inspected(model):
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.4)
    return dsf.inspect(model.eval(), drawn(2, TOKENS, MODEL))


def listed(model):
    return {one.name for one in inspected(model).unsupported}


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(MODEL, MODEL) for _ in range(3))

    def forward(self, x):
        self.left = (self.q(x) @ self.k(x).mT / 3).softmax(-1)
        return self.left @ self.v(x), self.left


def of_torch(mixer, x, **options):
    return mixer(x, x.flip(1), x.flip(1), **options)


MIXERS = {
    "torch": (lambda: nn.MultiheadAttention(MODEL, 2, batch_first=True), of_torch),
    "by hand": (Weights, lambda mixer, x: mixer(x)),
}
MADE = {
    "largest": lambda weights: weights.amax(-1, keepdim=True),
    "first": lambda weights: weights[..., :1],
    "sums": lambda weights: weights.sum(-2).unsqueeze(-1),
    "entropy": lambda weights: (weights * weights.log()).sum(-1, keepdim=True),
    "places": lambda weights: weights.argmax(-1, keepdim=True),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("mixer", MIXERS)
def test_weights_of_an_attention_that_are_used(mixer, made):
    make, call = MIXERS[mixer]

    def use(mixer, x):
        y, weights = call(mixer, x)
        return y + MADE[made](weights)

    assert "Around" in listed(Around(make(), use))


@pytest.mark.parametrize("way", ["heads", "time first", "into the next"])
def test_weights_of_other_forms_that_are_used(way):
    def use(mixer, x):
        if way == "time first":
            y, weights = mixer(*[x.transpose(0, 1)] * 3)
            return y.transpose(0, 1) + weights[:, :, :1]
        y, weights = of_torch(mixer, x, average_attn_weights=way != "heads")
        if way == "heads":
            return y + weights.amax((1, 3)).unsqueeze(-1)
        return y + of_torch(mixer, y)[0] * weights.amax(-1, keepdim=True)

    model = Around(nn.MultiheadAttention(MODEL, 2, batch_first=way != "time first"), use)
    assert "Around" in listed(model)


@pytest.mark.parametrize("mixer", MIXERS)
def test_weights_that_are_only_returned(mixer):
    make, call = MIXERS[mixer]

    class Returns(Around):
        def forward(self, x):
            y, weights = call(self.mixer, self.inp(x))
            return self.out(y), weights

    inspection = inspected(Returns(make(), None))
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported


class Reads(nn.Module):
    def __init__(self, other):
        super().__init__()
        self.other, self.project = [other], nn.Linear(MODEL, MODEL)

    def forward(self, x):
        return self.project(x) * self.other[0].left.amax(-1, keepdim=True)


@pytest.mark.parametrize("way", ["module", "hook"])
def test_weights_that_are_left_in_an_attribute(way):
    mixer = Weights()
    reads = Reads(mixer) if way == "module" else nn.Linear(MODEL, MODEL)
    if way == "hook":
        reads.register_forward_hook(lambda _m, _given, y: y + mixer.left[..., :1])
    model = Around(mixer, lambda mixer, x: reads(x + mixer(x)[0]))
    model.reads = reads
    assert listed(model) & {"reads", "Around"}


@pytest.mark.parametrize("state", [0, 1])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_state_that_is_added_to_all_tokens(layers, state):
    def use(lstm, x):
        y, states = lstm(x)
        return y + states[state][0].unsqueeze(1)

    model = Around(nn.LSTM(MODEL, MODEL, layers, batch_first=True), use)
    assert "Around" in listed(model)


def test_an_output_that_is_used_twice():
    def use(gru, x):
        y = gru(x)[0]
        return y + torch.tanh(y.flip(1))

    assert "Around" in listed(Around(nn.GRU(MODEL, MODEL, batch_first=True), use))


LEFT = []


def leaving(kind, way):
    """A mixer that also computes a running total, and leaves it somewhere."""

    class Left:
        pass

    class Leaves(kind):
        def forward(self, input):
            found, total = super().forward(input), torch.tanh(input.cumsum(1))
            if way == "attribute":
                self.left = total
            LEFT.append(total)
            first, *_ = found if isinstance(found, tuple) else (found,)
            holder = Left()
            holder.left = total
            return {"second": (first, total), "object": (first, holder)}.get(way, found)

    options = (MODEL, MODEL) if issubclass(kind, nn.GRU) else ()
    return Leaves(*options, **({"batch_first": True} if options else {}))


def taken(way):
    def use(mixer, x):
        found = mixer(x)
        y = found[0] if isinstance(found, tuple) else found
        if way in ("second", "object"):
            return y + (found[1] if way == "second" else found[1].left)
        return y + (mixer.left if way == "attribute" else LEFT[-1])

    return use


@pytest.mark.parametrize("way", ["second", "object", "attribute", "list"])
@pytest.mark.parametrize("kind", [nn.GRU, Stranger])
def test_what_a_mixer_leaves_besides_its_output(kind, way):
    assert "Around" in listed(Around(leaving(kind, way), taken(way)))


@pytest.mark.parametrize("when", ["before", "behind"])
def test_what_a_hook_leaves_inside_of_a_mixer(when):
    mixer, left = nn.MultiheadAttention(MODEL, 2, batch_first=True), []
    hook = lambda _m, given, *_: left.append(torch.tanh(given[0].cumsum(1)))  # noqa: E731
    if when == "before":
        mixer.register_forward_pre_hook(hook)
    else:
        mixer.register_forward_hook(hook)
    names = listed(Around(mixer, lambda mixer, x: of_torch(mixer, x)[0] + left[-1]))
    assert names & {"Around", "mixer"}


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.GRUCell])
def test_a_recurrence_of_another_signature_is_refused(kind):
    class Renamed(kind):
        def forward(self, tokens):
            return super().forward(tokens)

    def use(mixer, x):
        if kind is not nn.GRUCell:
            return mixer(x)[0]
        return torch.stack([mixer(token) for token in x.unbind(1)], dim=1)

    with pytest.raises(InspectionError, match="mixer"):
        inspected(Around(Renamed(MODEL, MODEL), use))
