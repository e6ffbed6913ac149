"""Certificates and their tensors in memory, so that a test can bend both and write them again."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import dsf
from dsf import certify
from dsf.systems.transition import Dense, Diagonal, DiagonalPlusLowRank

F64 = torch.float64
REAL = certify.Level.REAL
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass
class File:
    """One file of tensors: what its header says, and its data."""

    header: dict[str, Any]
    body: bytes
    raw: bytes | None = None
    """The whole file, where it is not the one of header and body."""

    def packed(self) -> bytes:
        if self.raw is not None:
            return self.raw
        text = json.dumps(self.header).encode()
        return len(text).to_bytes(8, "little") + text + self.body


@dataclass
class Bent:
    """A certificate that may be changed in every part.

    Attributes:
        content: of the certificate.
        files: tensors by the names of their files.
        text: the text that is written; None for the canonical one.
    """

    content: dict[str, Any]
    files: dict[str, File]
    text: str | None = None
    label: str = field(default="")

    def copy(self) -> "Bent":
        files = {
            name: File(json.loads(json.dumps(f.header)), f.body) for name, f in self.files.items()
        }
        return Bent(json.loads(json.dumps(self.content)), files, label=self.label)

    def sealed(self) -> "Bent":
        """With hashes and an identity that fit, as far as there is something to fit them to."""
        for entry in self.content.get("subject", ()):
            file = self.files.get(entry.get("file"))
            stored = file.header.get(entry.get("tensor")) if file is not None else None
            if isinstance(stored, dict) and "data_offsets" in stored:
                start, stop = stored["data_offsets"]
                entry["sha256"] = hashlib.sha256(file.body[start:stop]).hexdigest()
        self.content["identity"] = identity(self.content)
        return self

    def written(self, folder: Path) -> Path:
        for name, file in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.packed())
        path = folder / "certificates" / "bent.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = canonical(self.content) if self.text is None else self.text
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return path


def canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def identity(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "identity"}
    return hashlib.sha256(canonical(rest).encode()).hexdigest()


def read(folder: Path) -> Bent:
    """The only certificate of a folder."""
    (path,) = folder.glob("certificates/*.json")
    content = json.loads(path.read_text())
    files = {}
    for entry in content["subject"]:
        raw = (folder / entry["file"]).read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        files[entry["file"]] = File(json.loads(raw[8:end]), raw[end:])
    return Bent(content, files, label=path.stem.rsplit("-", 1)[0])


def numbers(kind: str, body: bytes) -> list[float]:
    """Stored floats as Python floats."""
    if kind == "BF16":
        halves = struct.unpack(f"<{len(body) // 2}H", body)
        return list(
            struct.unpack(
                f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(h << 16 for h in halves))
            )
        )
    code = {"F64": "d", "F32": "f", "F16": "e"}[kind]
    return list(struct.unpack(f"<{len(body) // SIZES[kind]}{code}", body))


def packed(kind: str, value: float) -> bytes:
    """A Python float as a stored one."""
    code = {"F64": "d", "F32": "f", "F16": "e", "BF16": "f"}[kind]
    try:
        raw = struct.pack(f"<{code}", value)
    except OverflowError:
        raw = struct.pack(f"<{code}", math.copysign(math.inf, value))
    return raw[-SIZES[kind] :]


def stored_layer(
    kind: str,
    normal: Callable[..., torch.Tensor],
    whole: Callable[[int, int], int],
    **changed: torch.Tensor,
) -> certify.StoredLayer:
    """A small layer of one kind, in one of the number types, with some parts given."""
    tokens, model, wide, states = whole(3, 5), 2, whole(1, 3), whole(1, 3)
    states = len(changed.get("read_weight", range(states)))
    positive = {"scale": normal(1).abs(), "epsilon": normal(1).abs() / 2**20}
    per_head = {"A_log": normal(1), "step_bias": normal(1), "step_weight": normal(model)}
    kinds = {
        "softmax_attention": {
            "cos": normal(tokens, 2), "sin": normal(tokens, 2), "scale": positive["scale"],
            "key_weight": normal(1 + wide, model), "query_weight": normal(1 + wide, model),
        },
        "selective_state_space": {
            "A_log": normal(states), "D": normal(1), "convolution_bias": normal(wide),
            "convolution_weight": normal(wide, 2), "input_weight": normal(wide, model),
            "read_weight": normal(states, wide), "step_bias": normal(1),
            "step_down_weight": normal(1, wide), "step_up_weight": normal(1),
            "write_weight": normal(states, wide),
        },
        "state_space_duality": per_head | {
            "D": normal(1), "read_bias": 0 * normal(states), "read_convolution": normal(states, 2),
            "read_weight": normal(states, model), "write_bias": normal(states),
            "write_convolution": normal(states, 3), "write_weight": normal(states, model),
        },
        "gated_delta_net": per_head | positive | {
            "rate_weight": normal(model), "read_convolution": normal(states, 2),
            "read_weight": normal(states, model), "write_convolution": normal(states, 3),
            "write_weight": normal(states, model),
        },
    }  # fmt: skip
    dtype = (torch.float64, torch.float32, torch.bfloat16)[whole(0, 3)]
    parts = {"input": normal(tokens, model)} | kinds[kind] | changed
    return certify.StoredLayer(kind, {role: part.to(dtype) for role, part in parts.items()})


def honest(seed: int, folder: Path) -> Iterator[Bent]:
    """Certificates of every claim with every verdict, on small random numbers."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=rng, dtype=F64)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=rng))

    width, tokens = whole(1, 4), whole(5, 9)
    kind = (torch.float64, torch.float32, torch.float16, torch.bfloat16)[whole(0, 4)]
    key = normal(tokens, width).to(kind)
    thin = torch.cat([normal(tokens, width), torch.zeros(tokens, 1, dtype=F64)], -1)
    thin[:, -1] = 2 * thin[:, 0]
    wide = normal(3, 25).float()  # fewer keys than columns
    apart = torch.arange(tokens)[:, None] - torch.arange(tokens)
    window = (apart >= 0) & (apart < width + 2)  # of a row with as many keys as columns, or more
    map = normal(2, 4, 4).softmax(-1).tril()
    map = (map / map.sum(-1, keepdim=True)).to(kind)
    bent = map.clone()
    bent[1, 2, 1] = -(2.0**-20)
    logs = -(normal(2, 6).abs() + 0.1).to(kind)
    zero = logs.clone()
    zero[1, 3] = -math.inf
    rate = torch.full((tokens,), 0.05, dtype=F64)
    box = (-torch.ones(width, dtype=F64), torch.ones(width, dtype=F64) * 1.5)
    tiny = (box[0] * 0.05, box[1] * 0.05)
    one = torch.ones((), dtype=F64)
    weight = normal(width)
    share = 2 / tokens

    def system(sign: float = 1.0) -> dsf.System:
        steps, states, outputs = whole(2, 4), whole(1, 3), whole(1, 3)
        decay = normal(steps, states).abs()
        update = [0.3 * normal(steps, states, 1).abs() for _ in range(2)]
        structures = (Diagonal(decay), DiagonalPlusLowRank(decay, *update))
        A = (*structures, Dense(normal(steps, states, states).abs()))[whole(0, 3)]
        B, C = normal(steps, states, 2).abs(), sign * normal(steps, outputs, states).abs()
        return dsf.System(A, B, C, reads_before_update=bool(whole(0, 2)))

    def layer(name: str, **changed: torch.Tensor) -> certify.StoredLayer:
        return stored_layer(name, normal, whole, **changed)

    scans = ("gated_delta_net", "selective_state_space", "state_space_duality")
    softmax = layer("softmax_attention")
    scan = layer(scans[whole(0, 3)])
    quiet = layer("state_space_duality", read_weight=0 * normal(1, 2), D=one[None])
    one_system = system()
    other = replace(one_system, C=one_system.C * (1 + 2.0**-30))
    makers = (
        lambda f: certify.injective(key, folder=f),
        lambda f: certify.injective(key, sink=True, folder=f),
        lambda f: certify.injective(thin, folder=f),
        lambda f: certify.injective(thin, sink=True, folder=f),
        lambda f: certify.injective(key, shown=window, folder=f),
        lambda f: certify.injective(key, shown=window, sink=True, folder=f),
        lambda f: certify.injective(thin, shown=window, folder=f),
        lambda f: certify.injective(thin, shown=window, sink=True, folder=f),
        lambda f: certify.margin(key.double(), folder=f),
        lambda f: certify.injective(key.double(), level=REAL, uncertainty=1e-6, folder=f),
        lambda f: certify.injective(key.double(), level=REAL, uncertainty=1e3, folder=f),
        lambda f: certify.injective(thin.double(), level=REAL, uncertainty=0.0, folder=f),
        lambda f: certify.injective(wide, folder=f),
        lambda f: certify.injective(wide, sink=True, folder=f),
        lambda f: certify.injective(wide, level=REAL, uncertainty=0.0, folder=f),
        lambda f: certify.linear_injective(key, feature_map="identity", folder=f),
        lambda f: certify.linear_injective(key, feature_map="relu", row=whole(0, tokens), folder=f),
        lambda f: certify.linear_injective(key, feature_map="elu_plus_one", folder=f),
        lambda f: certify.row_sums(map, tolerance=2.0**-5, folder=f),
        lambda f: certify.row_sums(map, target=1.5, folder=f),
        lambda f: certify.nonnegative(map, folder=f),
        lambda f: certify.nonnegative(bent, folder=f),
        lambda f: certify.causal(map, folder=f),
        lambda f: certify.causal(map.mT.contiguous(), folder=f),
        lambda f: certify.window_mass(map, width=2, share=0.01, folder=f),
        lambda f: certify.window_mass(map, width=1, share=0.99, folder=f),
        lambda f: certify.same_map(map, bent, tolerance=2.0, folder=f),
        lambda f: certify.same_map(map, bent, tolerance=0.0, folder=f),
        lambda f: certify.nonexpansive(key, rate, folder=f),
        lambda f: certify.nonexpansive(key, -rate, folder=f),
        lambda f: certify.nonexpansive(key, rate, -rate, folder=f),
        lambda f: certify.nonexpansive(key, rate, rate, folder=f),
        lambda f: certify.decay(logs, width=2, most=0.95, folder=f),
        lambda f: certify.decay(logs, width=1, most=0.01, folder=f),
        lambda f: certify.decay(zero, width=3, most=0.99, folder=f),
        lambda f: certify.decay_box(weight, one, one, box, width=2, most=0.9999, folder=f),
        lambda f: certify.decay_box(weight, one, one, box, width=2, most=1e-4, folder=f),
        lambda f: certify.nonnegative(system(), folder=f),
        lambda f: certify.nonnegative(system(-1.0), folder=f),
        lambda f: certify.row_sums(system(), target=1.0, tolerance=0.5, folder=f),
        lambda f: certify.row_sums(system(), target=1.0, tolerance=1e6, folder=f),
        lambda f: certify.equivalent(one_system, one_system, tolerance=0.0, level=REAL, folder=f),
        lambda f: certify.equivalent(one_system, other, tolerance=0.0, level=REAL, folder=f),
        lambda f: certify.nonnegative(softmax, folder=f),
        lambda f: certify.row_sums(softmax, tolerance=2.0**-90, folder=f),
        lambda f: certify.row_sums(softmax, target=1 + 2.0**-40, folder=f),
        lambda f: certify.nonnegative(scan, folder=f),
        lambda f: certify.nonnegative(quiet, folder=f),
        lambda f: certify.row_sums(scan, tolerance=0.125, folder=f),
        lambda f: certify.row_sums(scan, tolerance=1e3, folder=f),
        lambda f: certify.locality(key, tiny, window=(0, 2), share=0.3 * share, folder=f),
        lambda f: certify.locality(key, box, window=(1, 3), share=0.2 * share, folder=f),
        lambda f: certify.locality(key, box, window=(0, 1), share=0.9, folder=f),
    )  # fmt: skip
    for number, make in enumerate(makers):
        place = folder / f"{seed}-{number}"
        if make(place).identity:
            yield read(place)
