"""Maps of TransformerLens beside ours, in an environment of its own: see ``make bench``.

    .venv-lens/bin/python -m benchmarks.lens      # rows as JSON, on its last line

Both read the models inside the package, and softmax models at the shapes of published checkpoints.
Theirs leave the feedthrough out, so entries below the diagonal are compared. ``error`` is the
largest difference of the two over the largest entry.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-lens" / "bin" / "python"
TOKENS, LONG = 128, 512
# Of each whether its maps are asked for with the step sizes in them, as the response needs them.
REAL = ("GPT-2 124M", "SmolLM2 135M")
MODELS = {"mamba": True, "mamba2": True, "qwen3_next": False}


def rows() -> list[dict[str, Any]]:
    """What a process in the other environment found; nothing where there is none."""
    if not PYTHON.exists():
        print(f"no {PYTHON.parent.parent.name}: TransformerLens is left out", flush=True)
        return []
    command = [str(PYTHON), "-m", "benchmarks.lens"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def release() -> str:
    """The version of TransformerLens in the other environment."""
    found = PYTHON.parents[1].glob("lib/python*/site-packages/transformer_lens-*.dist-info")
    names = [folder.name.split("-")[1].removesuffix(".dist") for folder in found]
    return names[0] if names else "not installed"


def theirs(bridge: Any, prompt: Tensor, *, scaled: bool) -> list[Tensor]:
    """The map of every layer, ``sample head row column``."""
    _, cache = bridge.run_with_cache(prompt, use_cache=False)
    patterns = {name for name in cache.keys() if name.endswith("hook_pattern")}  # noqa: SIM118
    found = []
    for layer in range(len(bridge.blocks)):
        pattern = f"blocks.{layer}.attn.hook_pattern"
        if pattern in patterns:
            found.append(cache[pattern])
        else:
            made = cache.compute_ssm_effective_attention(layer=layer, include_dt_scaling=scaled)
            found.append(made)
    return found


def compared(name: str) -> list[dict[str, Any]]:
    """Ours and theirs of one model."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    from dsf.models import folder, recall

    model, other = (AutoModelForCausalLM.from_pretrained(folder(name)) for _ in range(2))
    bridge = TransformerBridge.boot_transformers(str(folder(name)), hf_model=other, device="cpu")
    rng = torch.Generator().manual_seed(0)
    prompt = recall.draw(rng, samples=1, length=TOKENS).tokens
    case = f"Maps of {name}, {TOKENS} tokens"
    return raced(case, model, bridge, prompt, scaled=MODELS[name], rounds=9)


def raced(
    case: str, model: Any, bridge: Any, prompt: Tensor, *, scaled: bool, rounds: int
) -> list[dict[str, Any]]:
    """Ours and theirs of one prompt, and how far their maps lie from ours."""
    import dsf
    from benchmarks.least import mixers_in_float64
    from benchmarks.limits import interleaved

    maps: dict[str, list[Tensor]] = {}

    def ours(**options: Any) -> list[Tensor]:
        return [layer.map() for layer in dsf.inspect(model, input_ids=prompt, **options)]

    def run() -> Any:
        with torch.no_grad():
            return model(input_ids=prompt, use_cache=False)

    def seen() -> list[Tensor]:
        with dsf.attentions(model) as maps:
            run()
        return list(maps.maps.values())

    mixers = [layer.name for layer in dsf.inspect(model, input_ids=prompt, checks="none")]
    again = mixers_in_float64(model, mixers, run)
    works = {
        "dsf": lambda: ours(checks="none"),
        "TransformerLens": lambda: theirs(bridge, prompt, scaled=scaled),
        "dsf.attentions": seen,
        "dsf, with checks": ours,
        "the run, and its mixers in float64": lambda: (run(), again()),
    }
    with torch.no_grad():
        taken = interleaved(works, rounds=rounds, look=maps.__setitem__)
    found = []
    for method, seconds in taken.items():
        row = {"case": case, "method": method, "seconds": seconds}
        found.append({**row, "error": 0.0, "ratio": seconds / taken["dsf"]})
    found[1]["error"] = max(map(apart, maps["TransformerLens"], maps["dsf"]))
    return found


def at_real_size(shape: str) -> list[dict[str, Any]]:
    """The same of a softmax model at the shape of a published checkpoint."""
    from transformer_lens.model_bridge import TransformerBridge

    from benchmarks.real_shapes import model_of

    model, other = model_of(shape), model_of(shape)
    with tempfile.TemporaryDirectory() as place:
        other.config.save_pretrained(place)
        of_one_word().save_pretrained(place)
        bridge = TransformerBridge.boot_transformers(place, hf_model=other, device="cpu")
    ids = torch.randint(0, 1000, (1, LONG), generator=torch.Generator().manual_seed(0))
    return raced(f"Maps of {shape}, {LONG} tokens", model, bridge, ids, scaled=False, rounds=1)


def of_one_word() -> Any:
    """A tokenizer, without which theirs does not open a model; token numbers are given here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    word = "<end>"
    made = Tokenizer(models.WordLevel({word: 0}, unk_token=word))
    special = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), word)
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference below the diagonal, over the largest entry there."""
    one, other = (part.detach().double().tril(-1) for part in (one, other))
    return float((one - other.reshape_as(one)).abs().max() / other.abs().max())


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = [row for name in MODELS for row in compared(name)]
    made += [row for shape in REAL for row in at_real_size(shape)]
    print(json.dumps(made))
