"""Other ways to run a scan, each only where its library is installed (``make bench`` sees to it).

What jax makes is handed to torch without a copy; compiling does not count.
"""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from benchmarks import lens
from dsf.mixers import SelectiveStateSpace, StateSpaceDuality

Works = dict[str, Callable[[], Tensor]]
NAMES = ("torch", "numpy", "numba", "scipy", "transformers", "mambapy", "jax")
# Numbers of a state over all tokens up to which a tree of products is made of them.
LARGEST_TREE = 2**26


def versions() -> dict[str, str]:
    """Of every library that is compared with, or that it is not installed."""
    return {name: _version(name) for name in NAMES} | {"TransformerLens": lens.release()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def there(name: str) -> bool:
    """Whether a library is installed."""
    return _version(name) != "not installed"


def _jitted(run: Callable[..., Any], *parts: Tensor) -> Callable[[], Tensor]:
    """``run`` compiled by jax, on one thread, over copies of ``parts``."""
    os.environ["NPROC"] = "1"  # its threads, read when it starts: several wait for each other
    import jax

    given = [jax.numpy.asarray(part.numpy()) for part in parts]
    compiled = jax.jit(run)
    return lambda: torch.from_dlpack(compiled(*given).block_until_ready())


def selective(mixer: SelectiveStateSpace) -> Works:
    """Of Mamba: the library's two paths, a loop and a tree of jax, and the tree of mambapy."""
    theirs = [part.mT for part in (mixer.value, mixer.step, mixer.write, mixer.read)]

    def library(**options: bool) -> Tensor:
        value, step, write, read = theirs
        return mamba_selective_scan(
            value, step, mixer.pole, write, read, mixer.feedthrough, **options
        )

    found: Works = {"library": library}
    if there("mambapy"):
        pscan = import_module("mambapy.pscan").pscan

        def tree() -> Tensor:
            decay = (mixer.step[..., None] * mixer.pole).exp()
            drive = (mixer.step * mixer.value)[..., None] * mixer.write[:, :, None]
            states = pscan(decay, drive)
            passed = mixer.feedthrough * mixer.value
            return ((states @ mixer.read[..., None]).squeeze(-1) + passed).mT

        found["library, pscan"] = lambda: library(use_mambapy=True)
        found["mambapy, pscan"] = tree
    return found | (_jax_selective(mixer) if there("jax") else {})


def _jax_selective(mixer: SelectiveStateSpace) -> Works:
    import jax
    from jax import numpy as jnp

    parts = [part[0] for part in (mixer.step, mixer.value, mixer.write, mixer.read)]
    fixed = (mixer.pole.mT.contiguous(), mixer.feedthrough)

    def loop(step: Any, value: Any, write: Any, read: Any, pole: Any, skip: Any) -> Any:
        def one(state: Any, token: Any) -> Any:
            step, value, write, read = token
            state = jnp.exp(step * pole) * state + write[:, None] * (step * value)
            return state, read @ state + skip * value

        return jax.lax.scan(one, jnp.zeros_like(pole), (step, value, write, read))[1]

    def tree(step: Any, value: Any, write: Any, read: Any, pole: Any, skip: Any) -> Any:
        decay = jnp.exp(step[:, None] * pole)
        drive = write[:, :, None] * (step * value)[:, None]
        states = jax.lax.associative_scan(_joined, (decay, drive))[1]
        return jnp.einsum("tn,tnd->td", read, states) + skip * value

    runs = {"jax, scan": loop, "jax, associative scan": tree}
    return {name: _turned(_jitted(run, *parts, *fixed)) for name, run in runs.items()}


def _joined(earlier: Any, later: Any) -> Any:
    return earlier[0] * later[0], later[0] * earlier[1] + later[1]


def _turned(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: work().mT[None]


def dual(mixer: StateSpaceDuality, *, size: int = 64) -> Works:
    """Of Mamba-2: a loop of jax, and its chunks with segment sums."""
    if not there("jax"):
        return {}
    import jax
    from jax import numpy as jnp

    # Time first; heads share what is written and read.
    parts = [part[0].movedim(1, 0) for part in (mixer.value, mixer.step)]
    parts += [mixer.write[0, 0], mixer.read[0, 0]]

    def loop(value: Any, step: Any, write: Any, read: Any, pole: Any, skip: Any) -> Any:
        def one(state: Any, token: Any) -> Any:
            value, step, write, read = token
            drive = (step[:, None] * value)[..., None] * write
            state = jnp.exp(step * pole)[:, None, None] * state + drive
            return state, state @ read + skip[:, None] * value

        start = jnp.zeros((*value.shape[1:], write.shape[1]))
        return jax.lax.scan(one, start, (value, step, write, read))[1]

    def chunked(value: Any, step: Any, write: Any, read: Any, pole: Any, skip: Any) -> Any:
        def one(state: Any, chunk: Any) -> Any:
            value, step, write, read = chunk
            logs = jnp.cumsum(step * pole, axis=0)
            between = jnp.where(below, jnp.exp(logs.T[:, :, None] - logs.T[:, None]), 0)
            drive = step[..., None] * value
            met = jnp.einsum("hij,ij,jhp->ihp", between, read @ write.T, drive)
            met += jnp.exp(logs)[..., None] * jnp.einsum("in,hpn->ihp", read, state)
            left = jnp.exp(logs[-1] - logs)[..., None] * drive
            state = jnp.exp(logs[-1])[:, None, None] * state
            return state + jnp.einsum("jhp,jn->hpn", left, write), met + skip[:, None] * value

        below = jnp.tril(jnp.ones((size, size), bool))
        cut = [part.reshape(-1, size, *part.shape[1:]) for part in (value, step, write, read)]
        start = jnp.zeros((*value.shape[1:], write.shape[1]))
        return jax.lax.scan(one, start, cut)[1].reshape(value.shape)

    runs = {"jax, scan": loop, f"jax, chunks of {size}": chunked}
    works = {
        name: _jitted(run, *parts, mixer.pole, mixer.feedthrough) for name, run in runs.items()
    }
    return {name: lambda work=work: work().movedim(0, 1)[None] for name, work in works.items()}


def scans(decay: Tensor, drive: Tensor) -> Works:
    """Of states that do not meet."""
    found: Works = {}
    if there("jax"):
        import jax
        from jax import numpy as jnp

        def loop(decay: Any, drive: Any) -> Any:
            def one(state: Any, token: Any) -> Any:
                state = token[0] * state + token[1]
                return state, state

            return jax.lax.scan(one, jnp.zeros_like(drive[0]), (decay, drive))[1]

        def tree(decay: Any, drive: Any) -> Any:
            return jax.lax.associative_scan(_joined, (decay, drive))[1]

        found["jax, scan"] = _jitted(loop, decay, drive)
        found["jax, associative scan"] = _jitted(tree, decay, drive)
    if there("mambapy") and drive.numel() < LARGEST_TREE:
        pscan = import_module("mambapy.pscan").pscan
        found["mambapy, pscan"] = lambda: pscan(decay[None, :, :, None], drive[None, :, :, None])
    return found
