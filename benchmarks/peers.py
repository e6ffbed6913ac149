"""Other ways to run a scan, each only where its library is installed."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsf.mixers import SelectiveStateSpace

Works = dict[str, Callable[[], Tensor]]
NAMES = ("torch", "numpy", "numba", "scipy", "transformers", "mambapy", "jax", "transformer_lens")
# Its tree of products is as large as the states, several times over.
SHORT = 1024


def versions() -> dict[str, str]:
    """Of every library that is compared with, or that it is not installed."""
    return {name: _version(name) for name in NAMES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _there(name: str) -> Any:
    return import_module(name) if _version(name) != "not installed" else None


def selective(mixer: SelectiveStateSpace) -> Works:
    """Of Mamba: a loop compiled by jax, states by channels, and the tree scan of mambapy."""
    found: Works = {}
    if _there("jax"):
        found["jax, scan"] = _jax_selective(mixer)
    if _there("mambapy") and mixer.step.shape[1] <= SHORT:
        pscan = import_module("mambapy.pscan").pscan

        def tree() -> Tensor:
            decay = (mixer.step[..., None] * mixer.pole).exp()
            drive = (mixer.step * mixer.value)[..., None] * mixer.write[:, :, None]
            states = pscan(decay, drive)
            passed = mixer.feedthrough * mixer.value
            return ((states @ mixer.read[..., None]).squeeze(-1) + passed).mT

        found["mambapy, pscan"] = tree
    return found


def _jax_selective(mixer: SelectiveStateSpace) -> Callable[[], Tensor]:
    import jax
    from jax import numpy as jnp

    parts = (mixer.step, mixer.value, mixer.write, mixer.read)
    arrays = [jnp.asarray(part[0].numpy()) for part in parts]
    pole, skip = jnp.asarray(mixer.pole.mT.numpy()), jnp.asarray(mixer.feedthrough.numpy())

    def one(state: Any, token: Any) -> Any:
        step, value, write, read = token
        state = jnp.exp(step * pole) * state + write[:, None] * (step * value)
        return state, read @ state + skip * value

    run = jax.jit(lambda given: jax.lax.scan(one, jnp.zeros_like(pole), given)[1])
    return lambda: torch.from_numpy(np.array(run(arrays).block_until_ready())).mT[None]


def scans(decay: Tensor, drive: Tensor) -> Works:
    """Of states that do not meet."""
    found: Works = {}
    if _there("jax"):
        import jax
        from jax import numpy as jnp

        given = [jnp.asarray(part.numpy()) for part in (decay, drive)]

        def one(state: Any, token: Any) -> Any:
            state = token[0] * state + token[1]
            return state, state

        run = jax.jit(lambda parts: jax.lax.scan(one, jnp.zeros_like(parts[0][0]), parts)[1])
        found["jax, scan"] = lambda: torch.from_numpy(np.array(run(given).block_until_ready()))
    if _there("mambapy"):
        pscan = import_module("mambapy.pscan").pscan
        found["mambapy, pscan"] = lambda: pscan(decay[None, :, :, None], drive[None, :, :, None])
    return found
