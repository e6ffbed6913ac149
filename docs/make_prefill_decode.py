"""Compare prefill with decode for a small model of every recurrent family: ``prefill_decode.md``.

python -m docs.make_prefill_decode
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

import dsf
from dsf.inspection import InspectionError
from dsf.inspection.capture.precision import guarded
from dsf.inspection.softmax.attention import plain_experts
from dsf.loading import load_model
from dsf.models import folder
from dsf.testing import redraw
from tests.inspection import softmax_models
from tests.inspection.families.tiny_models import FAMILIES, build, inputs

PAGE = Path(__file__).resolve().with_name("prefill_decode.md")
TOKENS, DECODED = 24, 8
KINDS = (torch.float32, torch.bfloat16)
CACHES = ("cache", "past_key_values", "cache_params", "state")
NO_DECODER = ("bert", "vit", "t5")
"""Softmax models that do not continue a text with a cache."""
EMBEDDED = ("text_llama", "text_mamba", "text_mamba2", "text_qwen3_next")
NO_LIMIT: dict[str, Any] = {"time_step_limit": (0.0, float("inf")), "time_step_min": 1e-6}
LOGIT_SCALE = 3.0
"""Drawn logits times this are as large as those of trained models."""
QWEN = {
    "vocab_size": 2048,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
"""The widths of Qwen3.5 0.8B, with four of its layers and a smaller vocabulary."""

HEAD = """# Prefill and decode

A model reads a prompt at once (prefill) and continues it one token at a time (decode). In exact
arithmetic both give the same logits. This page compares them for a small model of every recurrent
family, and of softmax families: the last {decoded} of {tokens} tokens are decoded with the
model's own cache, and `dsf.audit` says what made the result differ from the model in float64. It
is written by `python -m docs.make_prefill_decode`; no number in it is typed by hand. Releases:
transformers {transformers}, torch {torch}, on a CPU, kernels of plain torch.

*Apart* is the largest difference between decode and prefill at the decoded tokens, relative to
the largest output. *Rounding* means that no layer is accused: every stage adds what the same
stage of the prefill adds in the same number type. *Explained* is the part of the change (decode
against float64) that the shares of the ledger sum to. Where a router chooses other
experts, the number jumps on the way between the two runs, and the shares do not sum to it.

| family | number type | apart | verdict | largest share | explained |
|---|---|---:|---|---|---:|
"""


def rows() -> Iterator[str]:
    """One row for every family and number type."""
    models: dict[str, Any] = {name: name for name in EMBEDDED}
    models |= {name: name for name in FAMILIES}
    for name in models:
        try:
            model = load_model(folder(name)).model if name in EMBEDDED else build(name)
        except BaseException as error:  # the release has no such family
            print(name, type(error).__name__, flush=True)
            continue
        yield from _rows_of(name, model, inputs(TOKENS)["input_ids"][:1])


def softmax() -> Iterator[str]:
    """One row for every softmax family and number type."""
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(1, softmax_models.VOCABULARY, (1, TOKENS), generator=rng)
    for name in softmax_models.BUILT:
        if name not in NO_DECODER:
            yield from _rows_of(name, softmax_models.build(name), ids)


def _rows_of(name: str, model: Any, ids: torch.Tensor) -> Iterator[str]:
    for kind in KINDS:
        label = str(kind).removeprefix("torch.")
        try:
            yield f"| {name} | {label} | {' | '.join(_compared(model, ids, kind))} |"
        except (InspectionError, RuntimeError, ValueError, TypeError) as error:
            reason = str(error).split(". ")[0].replace("|", "/").replace("\n", " ")[:120]
            yield f"| {name} | {label} | | not run: {reason} | | |"


def _compared(model: Any, ids: torch.Tensor, kind: torch.dtype) -> tuple[str, ...]:
    ledger = dsf.audit(model, input_ids=ids, dtype=kind, decode=DECODED)
    apart = decoded_apart(copy.deepcopy(model).to(kind), ids, DECODED)
    most = max(ledger.rows, key=lambda row: abs(row.share))
    verdict = "rounding" if ledger.is_healthy else f"**{ledger.sentence.partition(':')[0]}**"
    explained = ledger.total / ledger.actual if ledger.actual else 1.0
    return (
        f"{apart:.0e}",
        verdict,
        f"{most.layer.rpartition('layers.')[2]}, {most.stage}",
        f"{100 * explained:.2f} %",
    )


def notes() -> Iterator[str]:
    """Why some rows are no rounding."""
    yield (
        "\nWhere a layer is named, its decode is another computation than its prefill: *mamba2*, "
        "*nemotron_h* and *zamba2* limit their steps in one of the two (below), and *minimax* in "
        "bfloat16 rounds its state at every decoded token, and in the prefill once for each block "
        "of its tokens. *glm5_next* computes another attention when it decodes, in float32 too."
    )


def limits() -> Iterator[str]:
    """The families whose steps are limited, without the limit."""
    yield (
        "\n## Steps with a limit\n\n"
        "These families can limit the step dt (`time_step_limit`, or `time_step_min`), and the "
        "small models above do. The chunked scan of the prefill clamps dt, and the recurrence of "
        "the decode does not, so that the two differ wherever the limit is met. The same models "
        "without the limit:\n\n"
        "| family | number type | apart | verdict | largest share | explained |\n"
        "|---|---|---:|---|---|---:|"
    )
    for name, family in FAMILIES.items():
        limited = [limit for limit in NO_LIMIT if limit in family.settings]
        if limited:
            model = build(name, **{limit: NO_LIMIT[limit] for limit in limited})
            row = _compared(model, inputs(TOKENS)["input_ids"][:1], torch.float32)
            yield f"| {name} | float32 | {' | '.join(row)} |"


@torch.no_grad()
def decoded_apart(model: Any, ids: torch.Tensor, last: int) -> float:
    """The largest difference between decode and prefill, relative to the largest output."""
    from inspect import signature

    takes = signature(model.forward).parameters
    taken = next(name for name in CACHES if name in takes)
    steps, cache, found = ids.shape[1], {}, []
    places = torch.arange(steps)[None]
    for start, stop in [(0, steps - last), *((at, at + 1) for at in range(steps - last, steps))]:
        if "position_ids" in takes:  # as generate passes them
            cache["position_ids"] = places[:, start:stop]
        with plain_experts(model), guarded(model):
            out = model(input_ids=ids[:, start:stop], use_cache=True, **cache)
        cache = {taken: next(out[name] for name in CACHES if name in out)}
        found.append(_logits(out).double())
    with plain_experts(model), guarded(model):
        whole = _logits(model(input_ids=ids, use_cache=False)).double()
    apart = torch.cat(found, dim=1)[:, -last:] - whole[:, -last:]
    return float(apart.abs().max() / whole.abs().max())


def _logits(out: Any) -> torch.Tensor:
    return out["logits"] if "logits" in out else out["last_hidden_state"]


def qwen() -> Iterator[str]:
    """A model of the class of Qwen3.5 with published widths: decode of the last token."""
    config = transformers.Qwen3_5TextConfig(**QWEN)
    torch.manual_seed(0)
    model = transformers.Qwen3_5ForCausalLM(config).eval()
    redraw(model, torch.Generator().manual_seed(0))
    model.lm_head.weight.data.mul_(LOGIT_SCALE)
    yield (
        "\n## What transformers#46190 saw\n\n"
        "The logits of Qwen3.5 in bfloat16 differ by 0.125 between one forward pass and prefill "
        "with decode; a closed change blamed the padding of the last chunk. Here is a model of "
        f"that class ({QWEN['num_hidden_layers']} layers at the published widths of the 0.8B "
        "model, random weights, logits as large as those of trained models). Its last 8 tokens are "
        "decoded; a chunk has 64 tokens, so that the prefill of 56 and 57 tokens is padded, and "
        "so is a forward pass of 65, but not one of 64.\n\n"
        "| tokens | number type | apart | largest logit | verdict | largest shares |\n"
        "|---:|---|---:|---:|---|---|"
    )
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(QWEN["vocab_size"], (1, 65), generator=rng)
    for tokens in (64, 65):
        for kind in (torch.float64, torch.float32, torch.bfloat16):
            some, twin = ids[:, :tokens], copy.deepcopy(model).to(kind)
            apart = decoded_apart(twin, some, DECODED)
            with torch.no_grad():
                largest = float(twin(input_ids=some, use_cache=False).logits.abs().max())
            verdict, shares = "the same" if kind is torch.float64 else "", ""
            if kind is torch.bfloat16:
                ledger = dsf.audit(model, input_ids=some, dtype=kind, decode=DECODED)
                strongest = sorted(ledger.rows, key=lambda row: -abs(row.share))[:3]
                verdict = (
                    "rounding" if ledger.is_healthy else f"**{ledger.sentence.partition(':')[0]}**"
                )
                shares = (
                    "; ".join(
                        f"{row.layer.rpartition('layers.')[2]}, {row.stage} {row.share:+.3f}"
                        for row in strongest
                    )
                    + f" of {ledger.actual:+.3f}"
                )
            yield (
                f"| {tokens} | {str(kind).removeprefix('torch.')} | {apart * largest:.1e} | "
                f"{largest:.2f} | {verdict} | {shares} |"
            )
    yield (
        "\nIn float64 both ways agree to rounding with and without padding: padded keys are zero, "
        "and what they write is never read. What the issue saw is the rounding of bfloat16, of "
        "which a logit of size 16 to 32 has steps of 0.125. No layer of the decode adds more than "
        "the same layer of the prefill.\n"
    )


@torch.no_grad()
def implementations() -> Iterator[str]:
    """The chunked and the recurrent gated delta rule against float64."""
    from transformers.models.qwen3_next import modeling_qwen3_next as code

    yield (
        "## Two implementations of the gated delta rule\n\n"
        "transformers computes a prompt in chunks and a decoded token by the recurrence. Both "
        "round inputs in bfloat16 and compute in float32. Difference from the recurrence in "
        "float64 on the same rounded inputs, relative, 4 heads of 64 channels:\n\n"
        "| tokens | inputs | chunked | recurrent |\n|---:|---|---:|---:|"
    )
    for tokens in (64, 65, 1024):
        rng = torch.Generator().manual_seed(tokens)
        query, key, value = (torch.randn(1, tokens, 4, 64, generator=rng) for _ in range(3))
        g = -torch.rand(1, tokens, 4, generator=rng).square()
        beta = torch.rand(1, tokens, 4, generator=rng)
        for kind in (torch.float32, torch.bfloat16):
            parts = [part.to(kind) for part in (query, key, value)]
            named = {"g": g, "beta": beta.to(kind), "use_qk_l2norm_in_kernel": True}
            exact = _delta_in_float64(*parts, g, named["beta"])
            found = []
            for rule in (code.torch_chunk_gated_delta_rule, code.torch_recurrent_gated_delta_rule):
                out, _ = rule(*parts, **named)
                found.append(float((out.double() - exact).norm() / exact.norm()))
            yield (
                f"| {tokens} | {str(kind).removeprefix('torch.')} | {found[0]:.1e} | "
                f"{found[1]:.1e} |"
            )
    yield ""


def _delta_in_float64(*parts: torch.Tensor) -> torch.Tensor:
    query, key, value, g, beta = (part.double().transpose(1, 2) for part in parts)
    query, key = (p * torch.rsqrt(p.square().sum(-1, keepdim=True) + 1e-6) for p in (query, key))
    mixer = dsf.mixers.GatedDeltaNet(
        query=query * query.shape[-1] ** -0.5, key=key, value=value, rate=beta, log_decay=g
    )
    return dsf.respond(mixer.system(), mixer.signal()).squeeze(-2).transpose(1, 2)


def main() -> None:
    """Run every comparison and write the page."""
    lines = [
        HEAD.format(
            decoded=DECODED,
            tokens=TOKENS,
            transformers=transformers.__version__,
            torch=torch.__version__,
        ).rstrip("\n")
    ]
    for part in (rows(), softmax(), notes(), limits(), qwen(), implementations()):
        for line in part:
            print(line, flush=True)
            lines.append(line)
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
