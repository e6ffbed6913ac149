"""What one prompt through one layer costs, and from that what a large job would take.

    python -m benchmarks.unit_costs

Builds models of the shapes below with random weights, one block each, runs one prompt and writes
``docs/unit_costs.json``; ``docs/make_scale.py`` quotes it. Processor seconds of one thread.
"""

import json
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from dsf.inspection import inspect
from dsf.inspection.results.measurements import QUANTITIES, values
from dsf.jobs.storage import MANIFEST, LayerFacts, Unit, finish

PAGE = Path(__file__).resolve().parent.parent / "docs" / "unit_costs.json"
# The library sums log decays in single precision over 256 tokens: poles as they are drawn, down to
# -128, leave an error of 1e-4 in its own output.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Cost:
    """Seconds of one layer on one prompt.

    Attributes:
        layers: of the whole model; each has ``heads`` maps.
        parameters: of one block.
        loading: its weights, read as bfloat16 from a file in the memory of the system.
        forward: the block in the model library.
        rebuilt: reading, rebuilding and comparing its mixer, the run included.
        measured: all quantities of ``dsf.inspection.results.measurements``.
        kilobytes: of the file that is kept.
        peak: memory of the process so far, in GB.
    """

    shape: str
    tokens: int
    layers: int
    heads: int
    parameters: int
    loading: float
    forward: float
    rebuilt: float
    measured: float
    kilobytes: float
    peak: float


def llama(tokens: int) -> tuple[torch.nn.Module, int]:
    """One block of a 7B Llama: width 4096, 32 heads."""
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=4096, intermediate_size=11008, num_attention_heads=32,
        num_hidden_layers=1, max_position_embeddings=tokens,
    )  # fmt: skip
    return transformers.LlamaModel(config).eval(), 32


def mamba2(tokens: int) -> tuple[torch.nn.Module, int]:
    """One block of a 7B Mamba-2: width 4096, 128 heads of 64, 128 states."""
    del tokens
    config = transformers.Mamba2Config(
        vocab_size=64, hidden_size=4096, num_heads=128, head_dim=64, state_size=128, n_groups=8,
        num_hidden_layers=1, expand=2,
    )  # fmt: skip
    return transformers.Mamba2Model(config).eval(), 64


def cost(name: str, tokens: int) -> Cost:
    """Build, run, rebuild, measure, write."""
    torch.manual_seed(0)
    model, layers = {"llama 7B": llama, "mamba-2 7B": mamba2}[name](tokens)
    ids = torch.randint(64, (1, tokens))
    with torch.no_grad():
        forward = _seconds(lambda: model(input_ids=ids, use_cache=False))
    found = []
    rebuilt = _seconds(lambda: found.append(inspect(model, input_ids=ids, tolerance=TOLERANCE)))
    layer = found[0][0]
    numbers = []
    measured = _seconds(lambda: numbers.append(values(layer.system, QUANTITIES)))
    with tempfile.TemporaryDirectory() as place:
        facts = LayerFacts(layer.name, layer.family, layer.axes, numbers[0][1], layer.heads)
        (Path(place) / MANIFEST).touch()
        finish(Path(place), Unit((0,)), [(facts, numbers[0][0])])
        size = sum(path.stat().st_size for path in Path(place).rglob("*.safetensors"))
    parameters = sum(part.numel() for part in model.layers.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return Cost(
        shape=name,
        tokens=tokens,
        layers=layers,
        heads=layer.map().shape[1],
        parameters=parameters,
        loading=_loading(model.layers),
        forward=forward,
        rebuilt=rebuilt,
        measured=measured,
        kilobytes=size / 1e3,
        peak=round(peak, 1),
    )


def _loading(block: torch.nn.Module) -> float:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "block.safetensors"
        save_file({name: part.bfloat16() for name, part in block.state_dict().items()}, path)
        return _seconds(lambda: [part.float() for part in load_file(path).values()])


def _seconds(do) -> float:
    begun = time.process_time()
    do()
    return round(time.process_time() - begun, 2)


def main() -> None:
    """All shapes."""
    torch.set_num_threads(1)
    costs = [cost(name, 512) for name in ("llama 7B", "mamba-2 7B")]
    content = {"costs": [asdict(each) for each in costs], "torch": torch.__version__,
               "transformers": transformers.__version__}  # fmt: skip
    print(*costs, sep="\n")
    PAGE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
