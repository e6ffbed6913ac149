"""The fields of a mixer, for tests that range over all of them."""

import re
from dataclasses import fields

import torch
from torch import Tensor


def draw(cls, steps, seed=0):
    return cls.draw(torch.Generator().manual_seed(seed), steps=steps)


def snake(name):
    """``RWKV7`` is ``rwkv7``, ``DeltaNet`` is ``delta_net``, ``MinGRU`` is ``min_gru``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def tensors(mixer):
    """The tensor fields of a mixer, by name."""
    parts = {field.name: getattr(mixer, field.name) for field in fields(mixer)}
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def axes_of(annotation):
    """The axis names of a field, also of one that may be absent."""
    for member in getattr(annotation, "__args__", (annotation,)):
        if hasattr(member, "dim_str"):
            return member.dim_str.split()
    return getattr(annotation, "dim_str", "").split()
