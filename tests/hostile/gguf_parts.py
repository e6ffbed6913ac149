"""GGUF files taken apart and put together again, by a reader and a writer of our own."""

import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, LIST = 8, 9
F32, F16, Q4_0, Q8_0, BF16 = 0, 1, 2, 8, 30
ALIGNMENT = 32


@dataclass
class Gguf:
    """The parts of a file: settings as key, kind and raw value; tensors as they are claimed."""

    settings: list[tuple[bytes, int, bytes]]
    tensors: list[tuple[bytes, list[int], int, int]]
    data: bytes
    version: int = 3

    def packed(self) -> bytes:
        head = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.settings))
        for key, kind, value in self.settings:
            head += string(key) + struct.pack("<I", kind % 2**32) + value
        for name, shape, kind, offset in self.tensors:
            sizes = [size % 2**64 for size in shape]
            head += string(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
            head += struct.pack("<IQ", kind % 2**32, offset % 2**64)
        return head + bytes(-len(head) % ALIGNMENT) + self.data


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def taken_apart(content: bytes) -> Gguf:
    """The parts of a file that is right."""
    version, tensors, settings = struct.unpack_from("<IQQ", content, 4)
    at, found, claimed = 24, [], []

    def text() -> bytes:
        nonlocal at
        (size,) = struct.unpack_from("<Q", content, at)
        at += 8 + size
        return content[at - size : at]

    def past(kind: int) -> None:
        nonlocal at
        if kind == STRING:
            text()
        elif kind == LIST:
            inner, count = struct.unpack_from("<IQ", content, at)
            at += 12
            for _ in range(count):
                past(inner)
        else:
            at += SIZES[kind]

    for _ in range(settings):
        key = text()
        (kind,) = struct.unpack_from("<I", content, at)
        at += 4
        begin = at
        past(kind)
        found.append((key, kind, content[begin:at]))
    for _ in range(tensors):
        name = text()
        (axes,) = struct.unpack_from("<I", content, at)
        shape = list(struct.unpack_from(f"<{axes}Q", content, at + 4))
        kind, offset = struct.unpack_from("<IQ", content, at + 4 + 8 * axes)
        at += 16 + 8 * axes
        claimed.append((name, shape, kind, offset))
    return Gguf(found, claimed, content[at + -at % ALIGNMENT :], version)


PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}  # fmt: skip


def llama_weights(content: bytes) -> dict[str, Tensor]:
    """The weights of a Llama by the names of the model library, in float64."""
    parts = taken_apart(content)
    numbers = {key: value for key, kind, value in parts.settings if kind in SIZES}
    found = {}
    for name, shape, kind, offset in parts.tensors:
        weight = _numbers(parts.data[offset:], shape[::-1], kind)
        told = name.decode()
        if told in WHOLE:
            found[WHOLE[told]] = weight
        elif told.startswith("blk.") and told.split(".")[2] in PARTS:
            _, block, part, _ = told.split(".")
            if part in ("attn_q", "attn_k"):
                key = b"llama.attention.head_count" + b"_kv" * (part == "attn_k")
                heads = int.from_bytes(numbers[key], "little")
                pairs = weight.reshape(heads, -1, 2, shape[0])
                weight = pairs.transpose(1, 2).reshape(weight.shape)
            found[f"model.layers.{int(block)}.{PARTS[part]}.weight"] = weight
    return found


def _numbers(data: bytes, shape: list[int], kind: int) -> Tensor:
    count = int(np.prod(shape))
    if kind == Q8_0:
        blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "i1", 32)]), count // 32)
        with np.errstate(invalid="ignore"):  # a scale that is infinite, times zero
            flat = blocks["d"].astype("<f8")[:, None] * blocks["q"].astype("<f8")
    elif kind == Q4_0:
        blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "u1", 16)]), count // 32)
        levels = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype("<f8") - 8
        with np.errstate(invalid="ignore"):
            flat = blocks["d"].astype("<f8")[:, None] * levels
    elif kind == BF16:
        halves = np.frombuffer(data, "<u2", count).astype("<u4") << 16
        flat = halves.view("<f4").astype("<f8")
    else:
        flat = np.frombuffer(data, {F32: "<f4", F16: "<f2"}[kind], count).astype("<f8")
    return torch.from_numpy(flat.reshape(shape).copy())
