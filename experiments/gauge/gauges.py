"""Three choices of states for one map: the mixer's own, random ones, and ones that never decay."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.system import System

SEED = 0
SMALLEST, LARGEST = 0.5, 2.0

Bases = Shaped[Tensor, "tokens+1 state state"]


def own(system: System) -> Bases:
    """T_t = I: the states as the architecture writes them."""
    identity = torch.eye(system.state_size, dtype=system.dtype)
    return identity.expand(system.steps + 1, *identity.shape)


def random(system: System) -> Bases:
    """T_t = s_t R_t with a random rotation R_t and a factor s_t between 1/2 and 2."""
    rng = torch.Generator().manual_seed(SEED)
    size = (system.steps + 1, system.state_size, system.state_size)
    rotations = torch.linalg.qr(torch.randn(size, generator=rng, dtype=system.dtype)).Q
    spread = torch.rand(len(rotations), 1, 1, generator=rng, dtype=system.dtype)
    return rotations * SMALLEST * (LARGEST / SMALLEST) ** spread


def undone(system: System) -> Bases:
    """T_t = (A_t ... A_1)^-1: then every A_t is the identity. Needs invertible A_t."""
    product = torch.eye(system.state_size, dtype=system.dtype)
    products = [product]
    for A in system.A.dense():
        product = A @ product
        products.append(product)
    return torch.linalg.inv(torch.stack(products))


GAUGES = {"own states": own, "random states": random, "undone decay": undone}
