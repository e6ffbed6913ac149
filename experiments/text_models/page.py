"""The table and the samples of ``README.md``, from ``results.json``."""

from pathlib import Path

from experiments.page import put_into, table

HEADS = (
    "model",
    "parameters",
    "tokens seen",
    "minutes of one core",
    "loss on held-out text, nats a token",
    "bits per byte",
    "below the bigram table",
)


def write(results: dict) -> None:
    """Put the results into the page beside this file."""
    put_into(Path(__file__).with_name("README.md"), text_of(results))


def text_of(results: dict) -> str:
    """All models in a table, then what each of them writes."""
    told, models = results["text"], results["models"]
    bigram = told["bigram_bits_per_byte"]
    rows = [row(name, result, bigram) for name, result in models.items()]
    rows.append(["table of byte pairs", "65,536", "", "", "", f"{bigram:.3f}", ""])
    rows.append(["table of bytes", "256", "", "", "", f"{told['unigram_bits_per_byte']:.3f}", ""])
    samples = [f"`{name}`:\n\n{quoted(result['sample'])}" for name, result in models.items()]
    return "\n\n".join([table(HEADS, rows), *samples])


def row(name: str, result: dict, bigram: float) -> list[str]:
    """One model."""
    return [
        name,
        f"{result['parameters']:,}",
        f"{result['tokens']:,}",
        f"{result['processor_seconds'] / 60:.1f}",
        f"{result['nats_per_token']:.3f}",
        f"{result['bits_per_byte']:.3f}",
        f"{bigram - result['bits_per_byte']:.3f}",
    ]


def quoted(sample: str) -> str:
    """Lines as they are, for Markdown."""
    return "\n".join(f"    {line}".rstrip() for line in sample.splitlines())
