"""Every recurrent family at the width of a published checkpoint: ``make sizes``, docs/sizes.md.

    python -m benchmarks.published_sizes [FAMILY ...]

Two layers with the widths, heads and states of the checkpoint, random weights as the library draws
them, a small vocabulary and small feed-forward layers, 1,024 random tokens, in float32 and in
bfloat16. Written down are the largest ``formula`` and ``rounding`` of the layers.
"""

import gc
import json
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import dsf

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "sizes.json", ROOT / "docs" / "sizes.md"
TOKENS, VOCABULARY = 1024, 256
SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FEED_FORWARD = {"intermediate_size": 256}
FULL = ["linear_attention", "full_attention"]
DTYPES = (torch.float32, torch.bfloat16)
UNREAD = {
    "rwkv": (
        "RwkvFeedForward",
        "the feed-forward layers of RWKV-4 blend every token with the one before it in front of a "
        "squared ReLU, which no family reads; at this width they are too wide to be probed unasked",
    ),
}
"""The class of what is known to be listed as not read, and why."""


@dataclass(frozen=True)
class Size:
    """One published width.

    Attributes:
        checkpoint: whose widths these are.
        model: the class of the model library.
        settings: of the configuration, beside the small vocabulary.
    """

    checkpoint: str
    model: str
    settings: Mapping[str, Any]


SIZES = {
    "mamba": Size(
        "Mamba 130M",
        "MambaModel",
        {"hidden_size": 768, "state_size": 16, "expand": 2, "num_hidden_layers": 2},
    ),
    "mamba2": Size(
        "Mamba-2 130M",
        "Mamba2Model",
        {
            "hidden_size": 768,
            "num_heads": 24,
            "head_dim": 64,
            "state_size": 128,
            "n_groups": 1,
            "num_hidden_layers": 2,
        },
    ),
    "falcon_mamba": Size(
        "Falcon-Mamba 7B",
        "FalconMambaModel",
        {"hidden_size": 4096, "state_size": 16, "num_hidden_layers": 2},
    ),
    "qwen3_next": Size(
        "Qwen3-Next 80B-A3B",
        "Qwen3NextModel",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 2,
            "layer_types": FULL,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "mlp_only_layers": [0, 1],
            **FEED_FORWARD,
        },
    ),
    "olmo_hybrid": Size(
        "OLMo-Hybrid 7B",
        "OlmoHybridModel",
        {
            "hidden_size": 3840,
            "num_hidden_layers": 2,
            "layer_types": FULL,
            "num_attention_heads": 30,
            "num_key_value_heads": 30,
            "linear_num_key_heads": 30,
            "linear_num_value_heads": 30,
            "linear_key_head_dim": 96,
            "linear_value_head_dim": 192,
            **FEED_FORWARD,
        },
    ),
    "recurrent_gemma": Size(
        "RecurrentGemma 2B",
        "RecurrentGemmaModel",
        {
            "hidden_size": 2560,
            "lru_width": 2560,
            "num_attention_heads": 10,
            "num_hidden_layers": 2,
            **FEED_FORWARD,
        },
    ),
    "rwkv": Size(
        "RWKV-4 169M",
        "RwkvModel",
        {"hidden_size": 768, "attention_hidden_size": 768, "num_hidden_layers": 2, **FEED_FORWARD},
    ),
    "xlstm": Size(
        "xLSTM 7B",
        "xLSTMModel",
        {"hidden_size": 4096, "num_heads": 8, "num_hidden_layers": 2},
    ),
    "lfm2": Size(
        "LFM2 1.2B",
        "Lfm2Model",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 2,
            "layer_types": ["conv", "full_attention"],
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "conv_L_cache": 3,
            **FEED_FORWARD,
        },
    ),
    "minimax": Size(
        "MiniMax-Text-01 (width 6144)",
        "MiniMaxModel",
        {
            "hidden_size": 6144,
            "num_hidden_layers": 2,
            "layer_types": FULL,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "num_local_experts": 2,
            **FEED_FORWARD,
        },
    ),
    "bamba": Size(
        "Bamba 9B",
        "BambaModel",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 2,
            "attn_layer_indices": [1],
            "mamba_n_heads": 128,
            "mamba_d_head": 64,
            "mamba_d_state": 128,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            **FEED_FORWARD,
        },
    ),
}


def measured(size: Size, dtype: torch.dtype) -> dict[str, Any]:
    """The largest two numbers of the layers, or why there are none."""
    torch.manual_seed(0)
    kind: Any = getattr(transformers, size.model)
    model = kind(kind.config_class(**SMALL | size.settings)).to(dtype).eval()
    ids = torch.randint(VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            model(ids, use_cache=False)
    except RuntimeError as error:
        return {"refused": f"the library does not run it: {error}"}
    begun = time.perf_counter()
    found = dsf.inspect(model, input_ids=ids)
    return {
        "layers": len(found),
        "mixers": sorted({type(layer.mixer).__name__ for layer in found}),
        "formula": max(layer.formula for layer in found),
        "rounding": max(layer.rounding for layer in found),
        "compared_with": sorted({layer.compared_with for layer in found}),
        "unsupported": [vars(missed) for missed in found.unsupported],
        "seconds": time.perf_counter() - begun,
    }


def main(names: list[str]) -> None:
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in names or SIZES:
        for dtype in DTYPES:
            key = str(dtype).removeprefix("torch.")
            record.setdefault(name, {})[key] = found = measured(SIZES[name], dtype)
            gc.collect()
            print(f"{name:16} {key:9} {_told(found)}", flush=True)
            RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(record))
    wrong = [
        f"{name} in {dtype}"
        for name, runs in record.items()
        for dtype, run in runs.items()
        if "refused" not in run and (_unexplained(name, run) or not run["formula"] <= 1e-12)
    ]
    if wrong:
        sys.exit(f"above their tolerance, or not read: {', '.join(wrong)}")


def _unexplained(name: str, run: Mapping[str, Any]) -> list[str]:
    """What was not read, but for what is known."""
    known = UNREAD.get(name, ("", ""))[0]
    classes = [missed["kind"].partition(",")[0].rpartition(".")[2] for missed in run["unsupported"]]
    return [each for each in classes if each != known]


def _told(found: Mapping[str, Any]) -> str:
    if "refused" in found:
        return str(found["refused"])
    numbers = f"formula {found['formula']:.0e} rounding {found['rounding']:.0e}"
    return f"{numbers} {found['seconds']:.0f} s"


def page(record: Mapping[str, Any]) -> str:
    """The table of the documentation."""
    rows = []
    for name, size in SIZES.items():
        if name in record:
            single, half = (record[name][key] for key in ("float32", "bfloat16"))
            runs = (single, half)
            numbers = [run.get(what) for what in ("formula", "rounding") for run in runs]
            cells = " | ".join("–" if number is None else f"{number:.0e}" for number in numbers)
            mixers = ", ".join(single["mixers"])
            rows.append(f"| {name} | {size.checkpoint} | {mixers} | {cells} |")
    unread = [f"{SIZES[name].checkpoint}: {why}." for name, (_, why) in UNREAD.items()]
    said = textwrap.fill(f"Listed as not read: {' '.join(unread)}", 100)
    return INTRODUCTION + "\n".join(rows) + NOTE + "\n" + said + "\n"


INTRODUCTION = f"""# Published widths

Each recurrent family with the widths, heads and states of a published checkpoint: two layers, random
weights as the library draws them, {TOKENS:,} random tokens. `formula` is how far the rebuilt layers are
from their own modules in float64, `rounding` how far the runs do, both relative and the largest of the
layers. Written by `make sizes`.

| family | widths of | mixers | formula, float32 | formula, bfloat16 | rounding, float32 | rounding, bfloat16 |
|---|---|---|---|---|---|---|
"""  # noqa: E501
NOTE = """

The limit of every layer is 1e-12. A dash: the library itself does not run the model in
that number type.
"""


if __name__ == "__main__":
    main(sys.argv[1:])
