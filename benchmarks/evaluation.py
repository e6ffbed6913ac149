"""Responses of layers of real size beside the model library's own path and the machine's limit.

    python -m benchmarks

One process, one thread, single precision, methods in turns, medians of the time at work. ``error``
is relative to the same numbers taken in double precision, ``ratio`` what the method takes over what
dsf takes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

import dsf
from benchmarks import peers
from benchmarks.limits import exponentials, interleaved, passes, processor_seconds, products
from dsf.evaluate import impulse_response
from dsf.mixers import (
    DiagonalStateSpace,
    GatedDeltaNet,
    GatedLinearAttention,
    SelectiveStateSpace,
    StateSpaceDuality,
)
from dsf.solve import recurrence
from dsf.transition import Diagonal

RNG = torch.Generator().manual_seed(0)
Row = dict[str, Any]
Works = dict[str, Callable[[], Tensor]]


def normal(*size: int) -> Tensor:
    return torch.randn(*size, generator=RNG)


def steps(*size: int) -> Tensor:
    """Between 0.001 and 0.1, evenly in their logarithm, as models draw them."""
    return (-6.9 + 4.6 * torch.rand(*size, generator=RNG)).exp()


def selective(tokens: int, *, channels: int = 1536, states: int = 16) -> list[Row]:
    """Case 1: Mamba. The limit is one exponential and one fused product a state and token."""
    mixer = SelectiveStateSpace(
        value=normal(1, tokens, channels),
        step=steps(1, tokens, channels),
        pole=-torch.arange(1.0, states + 1).repeat(channels, 1),
        write=normal(1, tokens, states),
        read=normal(1, tokens, states),
        feedthrough=normal(channels),
    )
    theirs = [part.mT for part in (mixer.value, mixer.step, mixer.write, mixer.read)]

    def library() -> Tensor:
        value, step, write, read = theirs
        return mamba_selective_scan(value, step, mixer.pole, write, read, mixer.feedthrough)

    limit = exponentials(tokens * channels * states)
    works = {"library": library, **peers.selective(mixer)}
    return compared(f"Mamba, {tokens} tokens", mixer, works, limit)


def dual(tokens: int, *, heads: int = 24, width: int = 64, states: int = 128) -> list[Row]:
    """Case 2: Mamba-2. The limit is four operations a number of the state and token."""
    mixer = StateSpaceDuality(
        value=normal(1, heads, tokens, width),
        step=steps(1, heads, tokens),
        pole=-torch.linspace(1, 16, heads),
        write=normal(1, 1, tokens, states),
        read=normal(1, 1, tokens, states),
        feedthrough=normal(heads),
    )
    value, step, write, read = (
        part.movedim(1, 2).contiguous()
        for part in (mixer.value, mixer.step, mixer.write, mixer.read)
    )

    def library(size: int) -> Tensor:
        found = mamba2_chunk_scan(
            value, step, mixer.pole, write, read, chunk_size=size, D=mixer.feedthrough
        )
        return found.reshape(value.shape).movedim(1, 2)

    works = {f"library, chunks of {size}": lambda size=size: library(size) for size in (64, 256)}
    limit = products(4.0 * states * width * heads * tokens)
    return compared(f"Mamba-2, {tokens} tokens", mixer, works, limit)


def gated_delta(tokens: int, *, heads: int = 8, width: int = 128) -> list[Row]:
    """Case 3: the gated delta rule. The limit is six operations a number of the state and token."""
    mixer = GatedDeltaNet(
        query=normal(1, heads, tokens, width) * width**-0.5,
        key=torch.nn.functional.normalize(normal(1, heads, tokens, width), dim=-1),
        value=normal(1, heads, tokens, width),
        rate=torch.rand(1, heads, tokens, generator=RNG),
        log_decay=-0.1 * torch.rand(1, heads, tokens, generator=RNG),
    )
    parts = (mixer.query * width**0.5, mixer.key, mixer.value, mixer.log_decay, mixer.rate)
    theirs = [part.movedim(1, 2).contiguous() for part in parts]

    def library() -> Tensor:
        return torch_chunk_gated_delta_rule(*theirs)[0].movedim(1, 2)

    limit = products(6.0 * width * width * heads * tokens)
    return compared(f"Gated delta rule, {tokens} tokens", mixer, {"library": library}, limit)


def gated_linear(tokens: int, *, heads: int = 4, keys: int = 128, width: int = 256) -> list[Row]:
    """Case 4: gated linear attention. The limit is four operations a number of the state."""
    mixer = GatedLinearAttention(
        query=normal(1, heads, tokens, keys) * keys**-0.5,
        key=normal(1, heads, tokens, keys),
        value=normal(1, heads, tokens, width),
        log_decay=-0.1 * torch.rand(1, heads, tokens, keys, generator=RNG),
    )

    def loop() -> Tensor:
        state, found = torch.zeros(heads, keys, width), []
        decays = mixer.log_decay[0].exp()
        for t in range(tokens):
            new = mixer.key[0, :, t, :, None] * mixer.value[0, :, t, None]
            state = decays[:, t, :, None] * state + new
            found.append(mixer.query[0, :, t, None] @ state)
        return torch.cat(found, dim=1)

    limit = products(4.0 * keys * width * heads * tokens)
    return compared(f"GLA, {tokens} tokens", mixer, {"loop of torch": loop}, limit)


def wide(tokens: int, *, columns: int = 24_576) -> list[Row]:
    """Case 9: states that do not meet. The limit is memory: two numbers read, one written."""
    decay = torch.rand(tokens, columns, generator=RNG)
    drive = normal(tokens, columns, 1)
    exact = recurrence(Diagonal(decay.double()), drive.double())

    def ours() -> Tensor:
        return recurrence(Diagonal(decay), drive)

    works = {"dsf": ours, **peers.scans(decay, drive.squeeze(-1))}
    limit = passes(tokens * columns, reads=2)
    errors = {name: error_of(work().reshape(exact.shape), exact) for name, work in works.items()}
    taken = interleaved({**works, "limit": limit}, rounds=3)
    case = f"Wide scan, {tokens} tokens"
    return [row(case, name, taken, errors.get(name, 0.0)) for name in taken]


def invariant(tokens: int, *, channels: int = 256, modes: int = 32) -> list[Row]:
    """Case 5: the impulse responses of S4D, against the exponential of every mode and lag."""
    rate = -torch.rand(channels, modes, generator=RNG) - 0.1
    mixer = DiagonalStateSpace(
        value=normal(channels, tokens, 1),
        pole=torch.complex(rate, 3 * normal(channels, modes)),
        write=torch.complex(normal(channels, modes), normal(channels, modes)),
        read=torch.complex(normal(channels, modes), normal(channels, modes)),
        step=steps(channels),
    )
    system = mixer.system()
    decay = system.A.diagonal()[:, 0].to(torch.complex128)
    exact = (part.to(torch.complex128) for part in (system.B[:, 0, :, 0], system.C[:, 0, 0]))
    weight = torch.mul(*exact)

    def direct() -> Tensor:
        lags = torch.arange(tokens, dtype=torch.float64)
        rows = zip(weight, decay.log(), strict=True)
        return torch.stack([(lags[:, None] * each).exp() @ row for row, each in rows]).real

    def ours() -> Tensor:
        return impulse_response(system)[..., 0, 0]

    found: list[Tensor] = []
    taken = {"direct exponential": processor_seconds(lambda: found.append(direct()))}
    taken |= interleaved({"dsf": ours}, rounds=3)
    error = float((ours() - found[0]).norm() / found[0].norm())
    case = f"Impulse response, {tokens} lags"
    return [row(case, name, taken, error if name == "dsf" else 0.0) for name in taken]


def compared(case: str, mixer: Any, works: Works, limit: Callable[[], Any]) -> list[Row]:
    """Rows of one case: dsf, the others, and the limit."""
    system, signal = mixer.system(), mixer.signal()
    exact = dsf.respond(dsf.algebra.converted(system, dtype=torch.float64), signal.double())

    def ours() -> Tensor:
        return dsf.respond(system, signal)

    errors = {"dsf": error_of(ours(), exact), "limit": 0.0}
    errors |= {
        name: error_of(work().reshape_as(shown(exact)), exact) for name, work in works.items()
    }
    taken = interleaved({"dsf": ours, **works, "limit": limit}, rounds=3)
    return [row(case, name, taken, errors[name]) for name in taken]


def shown(response: Tensor) -> Tensor:
    """Without the axes of single ports."""
    return response[..., 0, 0] if response.shape[-1] == 1 else response.squeeze(-2)


def error_of(response: Tensor, exact: Tensor) -> float:
    expected = shown(exact)
    found = shown(response) if response.ndim == exact.ndim else response
    return float((found - expected).norm() / expected.norm())


def row(case: str, method: str, taken: dict[str, float], error: float) -> Row:
    seconds = taken[method]
    found = {"case": case, "method": method, "seconds": seconds, "error": error}
    print(f"{case:>32} {method:>24} {seconds * 1e3:9.1f} ms  error {error:.0e}", flush=True)
    return {**found, "ratio": seconds / taken["dsf"]}
