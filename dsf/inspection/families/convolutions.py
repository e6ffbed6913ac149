"""Reads the gated short convolution of lfm2, lfm2_moe and lfm3, and that over patches in lfm3_vl.

[write gate|read gate|value] = in_proj h
output = out_proj(read gate ⊙ (filter(write gate ⊙ value) + b))

In the vision tower every channel has its own filter over the grid of a frame. The patches of a
frame are ordered block by block, and frames do not mix. No recurrence with a state of fixed size
gives this map, so it is stored explicitly, by its taps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families import shared
from dsf.inspection.whole.stages import Chain
from dsf.mixers import Mixer, ShortConvolution
from dsf.systems.composite import ExplicitMap, RowSource


def _read_short(layer: Captured) -> ShortConvolution:
    hidden, kernel = (
        shared.masked(layer, layer.arguments["hidden_states"]),
        layer.weights["conv.weight"],
    )
    write_gate, read_gate, value = layer.project("in_proj", hidden).chunk(3, dim=-1)
    held = shared.state_before(layer, "get_conv_state")  # sample channel taps
    return ShortConvolution(
        value=value,
        kernel=kernel.squeeze(1),
        bias=layer.weights.get("conv.bias"),
        write_gate=write_gate,
        read_gate=read_gate,
        earlier=None if held is None else held[..., -kernel.shape[-1] :],
    )


def _enter_short(layer: Captured) -> Chain:
    values = shared.some_rows(layer, "in_proj", lambda rows: rows.chunk(3, dim=-1)[2])
    return Chain((*shared.masking(layer, layer.arguments["hidden_states"]), values))


def _leave_short(layer: Captured, _: Tensor) -> Chain:
    return Chain((layer.projection("out_proj"),))


@dataclass(frozen=True)
class FilterRows(RowSource):
    """Rows of a map with one weight for every tap of a filter."""

    weights: Float[Tensor, "channel time taps"]
    reads: Int[Tensor, "time taps"]

    @property
    def shape(self) -> torch.Size:
        channels, steps, _ = self.weights.shape
        return torch.Size([channels, steps, 1, steps])

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.dtype

    @property
    def device(self) -> torch.device:
        return self.weights.device

    def window(self, start: int, stop: int) -> Shaped[Tensor, "channel rows 1 read"]:
        weights = self.weights[:, start:stop]
        reads = self.reads[start:stop].expand(weights.shape)
        steps = self.shape[-1]
        rows = weights.new_zeros(*weights.shape[:2], steps + 1).scatter_add(-1, reads, weights)
        return rows[..., None, :steps]

    def flipped(self) -> "FilterRows":
        return FilterRows(self.weights.flip(1), self.reads.flip(0))

    def apply(self, signal: Shaped[Tensor, "channel read 1 width"]) -> Tensor:
        seen = pad(signal.squeeze(-2), (0, 0, 0, 1))[:, self.reads]
        return torch.einsum("c t k, c t k w -> c t w", self.weights, seen).unsqueeze(-2)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GridConvolution(Mixer):
    """A depthwise filter over a grid, between a gate on what is written and one on what is read."""

    kernel: Float[Tensor, "channel taps"]
    reads: Int[Tensor, "time taps"]
    write_gate: Float[Tensor, "channel time"]
    read_gate: Float[Tensor, "channel time"]
    value: Float[Tensor, "channel time"]

    def system(self) -> ExplicitMap:
        written = pad(self.write_gate, (0, 1))[:, self.reads]
        weights = self.read_gate.unsqueeze(-1) * self.kernel.unsqueeze(1) * written
        return ExplicitMap(FilterRows(weights, self.reads))

    def signal(self) -> Shaped[Tensor, "channel time 1 1"]:
        return self.value[..., None, None]

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "GridConvolution":
        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=rng, dtype=torch.float64)

        gates, value = normal(2, 2, steps), normal(2, steps)
        reads = _neighbours([(1, 1, steps)], side=3, block=1)
        return cls(
            kernel=normal(2, 9), reads=reads, write_gate=gates[0], read_gate=gates[1], value=value
        )


def _neighbours(
    grids: list[tuple[int, int, int]], *, side: int, block: int
) -> Int[Tensor, "time taps"]:
    """The token that each tap of a square filter reads, for tokens ordered block by block."""
    found, first = [], 0
    total = sum(frames * height * width for frames, height, width in grids)
    for frames, height, width in grids:
        count = frames * height * width
        order = torch.arange(first, first + count)
        blocks = order.view(frames, height // block, width // block, block, block)
        grid = blocks.permute(0, 1, 3, 2, 4).reshape(frames, height, width)
        around = pad(grid, (side // 2,) * 4, value=total)
        taps = around.unfold(1, side, 1).unfold(2, side, 1).reshape(count, side * side)
        found.append(taps[(grid.flatten() - first).argsort()])
        first += count
    return torch.cat(found)


def _read_grid(layer: Captured) -> GridConvolution:
    kernel = layer.weights["spatial_conv.weight"].squeeze(1)
    write_gate, read_gate, value = layer.project(
        "in_proj", layer.arguments["hidden_states"]
    ).mT.chunk(3)
    grids = [tuple(grid) for grid in layer.arguments["grid_thw"]]
    reads = _neighbours(grids, side=kernel.shape[-1], block=layer.module.spatial_merge_size)
    return GridConvolution(
        kernel=kernel.flatten(1),
        reads=reads.to(value.device),
        write_gate=write_gate,
        read_gate=read_gate,
        value=value,
    )


def _finish_grid(layer: Captured, mixed: Shaped[Tensor, "channel time 1 1"]) -> Tensor:
    return layer.project("out_proj", mixed.squeeze((-2, -1)).mT)


ADAPTERS = (
    Adapter(
        families=shared.of_transformers(
            lfm2="Lfm2ShortConv", lfm2_moe="Lfm2MoeShortConv", lfm3="Lfm3ShortConv"
        ),
        read=_read_short,
        enter=_enter_short,
        leave=_leave_short,
        axes=("sample", "channel"),
        advice=dict.fromkeys(("lfm2", "lfm2_moe"), shared.LONE_PADDING),
    ),
    Adapter(
        families=shared.of_transformers(lfm3_vl="Lfm3VlVisionShortConv"),
        read=_read_grid,
        finish=_finish_grid,
        axes=("channel",),
    ),
)
