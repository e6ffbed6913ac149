"""Stacks of models that go on from a state, and of modules that write into their tensors."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import dsf
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.loading import load_model
from dsf.models import folder
from tests.inspection import test_continued_states as continued


@pytest.mark.filterwarnings("ignore:.*(past_key_values|cache_params).*:FutureWarning")
@pytest.mark.parametrize("name", ["Rwkv", "Mamba2", "xLSTM", "Qwen3Next", "Lfm2"])
def test_shares_of_later_tokens_are_those_of_the_run_over_all_tokens(name):
    """What earlier tokens left in the state is a constant: no later token's share changes by it."""
    model = continued.built(name)
    state = continued.cache_after(model, name, 5)
    stack = dsf.stack(model, input_ids=continued.IDS[:, 5:], **state)
    whole = dsf.stack(model, input_ids=continued.IDS)
    along = torch.randn(
        stack.hidden[-1].shape[-1],
        generator=torch.Generator().manual_seed(2),
        dtype=torch.float64,
    )
    share, expected = (each.attribute(along, stream=-1) for each in (stack, whole))
    assert share.error < 1e-12
    torch.testing.assert_close(share.value, expected.value, rtol=1e-4, atol=1e-4)
    loose = 1e-4 * expected.tokens.abs().max().item()  # the state comes in single precision
    torch.testing.assert_close(share.tokens, expected.tokens[:, 5:], rtol=0, atol=loose)
    assert share.remainder.abs().max() > 10 * loose


class Block(nn.Module):
    """Attention, then what is done by writing into tensors, or the same without."""

    def __init__(self, way, *, writes):
        super().__init__()
        self.way, self.writes, self.v, self.o = way, writes, nn.Linear(4, 4), nn.Linear(4, 4)

    def attention(self, x):
        v = self.v(x).unsqueeze(1)
        return self.o(scaled_dot_product_attention(x[:, None], x[:, None], v)[:, 0])

    def forward(self, x):
        x = x + self.attention(x)
        shifted, doubled = x.roll(1, 1), 2 * x
        first = torch.ones_like(x[:, :1])
        if not self.writes:
            if self.way == "a stream into zeros":
                return torch.cat([0 * first, x[:, :-1]], dim=1)
            if self.way == "a constant into a stream":
                return torch.cat([3 * first, shifted[:, 1:]], dim=1)
            if self.way == "a stream into a stream":
                return torch.cat([doubled[:, 1:2], doubled[:, 1:2], shifted[:, 2:]], dim=1)
            return torch.cat([shifted[..., :1], doubled[..., 1:2], shifted[..., 2:]], dim=-1)
        if self.way == "a stream into zeros":
            put = torch.zeros_like(x)
            put[:, 1:] = x[:, :-1]
            return put
        if self.way == "a constant into a stream":
            shifted[:, 0] = 3.0
        elif self.way == "a stream into a stream":
            shifted[:, :2] = doubled[:, 1:2]  # one row into two
        else:
            shifted[..., torch.tensor([1])] = doubled[..., [1]]
        return shifted


WAYS = (
    "a stream into zeros",
    "a constant into a stream",
    "a stream into a stream",
    "at places of a tensor",
)


@pytest.mark.parametrize("way", WAYS)
def test_writing_into_a_tensor_is_followed(way):
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for writes in (True, False):
        torch.manual_seed(1)
        blocks = [Block(way, writes=writes) for _ in range(3)]
        model = nn.Sequential(nn.Sequential(*blocks), nn.Linear(4, 3)).eval()
        found.append(dsf.stack(model, x, blocks="0").attribute(1, position=3))
    written, plain = found
    assert written.error < 1e-12
    torch.testing.assert_close(written.tokens, plain.tokens)
    torch.testing.assert_close(written.remainder, plain.remainder)
    assert plain.tokens.abs().min() < plain.tokens.abs().max()


def test_writing_into_one_place_twice_is_refused_in_words():
    class Twice(Block):
        def forward(self, x):
            x = x + self.attention(x)
            put = torch.zeros_like(x)
            put[:, [0, 0, 1]] = x[:, :3]
            return put

    model = nn.Sequential(nn.Sequential(Twice("", writes=True), Twice("", writes=True)))
    with pytest.raises(UnreadableError, match="because of 'setitem'"):
        dsf.stack(model.eval(), torch.randn(1, 4, 4), blocks="0")


@pytest.mark.filterwarnings("ignore:.*(past_key_values|cache_params).*:FutureWarning")
def test_a_step_of_softmax_attention_is_the_last_row_of_the_whole_sequence():
    """A step has no edges to tokens that are not its input; the error says where they are."""
    loaded = load_model(folder("text_llama"))
    ids = torch.tensor([loaded.tokenizer.encode("And all our yesterdays have lighted")])
    with torch.no_grad():
        cache = loaded.model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    step = dsf.stack(loaded.model, input_ids=ids[:, -1:], past_key_values=cache).attribute(5)
    whole = dsf.attribute(loaded.model, input_ids=ids, target=5)
    torch.testing.assert_close(step.value, whole.value, rtol=1e-4, atol=1e-4)
    with pytest.raises(InspectionError, match="whole sequence"):
        step.edges(0)
    assert whole.edges(0).shape[-2:] == 2 * ids.shape[1:]
