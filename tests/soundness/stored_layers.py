"""Certificates from stored weights for the four embedded models that recall, as a table.

    python -m tests.soundness.stored_layers --write

Both checkers decide every file; ``--write`` puts the table into the page on certificates.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from dsf import certify, models
from dsf.certificates import Certificate, StoredLayer, checker
from dsf.inspection import stored_layer
from dsf.models import recall
from tests.soundness import second_checker

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "certificates.md"
BEGIN, END = "<!-- stored layers -->\n", "<!-- end of stored layers -->"
EMBEDDED = {
    "llama": ("model.layers.1.self_attn", 1),
    "mamba": ("backbone.layers.0.mixer", 5),
    "mamba2": ("backbone.layers.1.mixer", 0),
    "qwen3_next": ("model.layers.2.linear_attn", 1),
}
"""A layer, and a head or channel of it, of every model."""
TOKENS = recall.draw(torch.Generator().manual_seed(0), 1).tokens[:, :8]


def layers() -> Iterator[tuple[str, StoredLayer]]:
    """The stored layer of every model."""
    for name, (layer, head) in EMBEDDED.items():
        model = AutoModelForCausalLM.from_pretrained(models.folder(name)).eval()
        yield name, stored_layer(model, layer, input_ids=TOKENS, head=head)


def claims(layer: StoredLayer, folder: Path) -> Iterator[tuple[str, Certificate]]:
    """What is decided about a layer, every certificate in a folder of its own."""
    near = 2.0**-100
    yield "no weight below zero", certify.nonnegative(layer, folder=folder / "signs")
    yield "rows sum to one", certify.row_sums(layer, tolerance=near, folder=folder / "sums")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true", help="put the table into the page")
    chosen = options.parse_args()
    rows = [
        "| model | layer, head or channel | claim | verdict | witness | files | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for name, layer in layers():
            path, head = EMBEDDED[name]
            for claim, found in claims(layer, Path(temporary) / name):
                folder = next(Path(temporary).glob(f"{name}/*/{found.file}")).parent.parent
                seconds = []
                for check in (checker.check, second_checker.verdict):
                    begun = time.process_time()
                    assert check(folder / found.file) == found.verdict.value
                    seconds.append(f"{time.process_time() - begun:.2f}")
                size = sum(file.stat().st_size for file in folder.rglob("*.*")) / 1000
                witness = ", ".join(f"{k} {v}" for k, v in (found.witness or {}).items())
                rows.append(
                    f"| {name} | `{path}`, {head} | {claim} | {found.verdict.value} | {witness} | "
                    f"{size:.0f} kB | {', '.join(seconds)} |"
                )
    print("\n".join(rows))
    if chosen.write:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(before + BEGIN + "\n".join(rows) + "\n" + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
