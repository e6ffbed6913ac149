"""Table and figure of what ``run.py`` has measured so far.

python -m experiments.smaller_caches.report
"""

import json
from math import exp

from dsf.interventions.linearisation import LinearisationPlan
from experiments.page import put_into, table
from experiments.smaller_caches.run import HERE, KEPT, SHARES, correlations

WAYS = (
    "dsf",
    "dsf, first round",
    "dsf without states",
    "sink and window",
    "uniform window",
    "distant mass",
    "map difference",
    "random",
)


def rise(found, name, number, part="loss"):
    """Relative rise of the perplexity."""
    return exp(found[name][part] - found[f"whole {number}"][part]) - 1


def curve_rows(found):
    """One row for every share and way of choosing, over the texts that were measured."""
    for share in sorted(SHARES):
        for way in WAYS:
            numbers = [n for n in (0, 1) if f"{way} {share} {n}" in found]
            if not numbers:
                continue
            names = [f"{way} {share} {number}" for number in numbers]
            rises = [
                [rise(found, name, n, part) for name, n in zip(names, numbers, strict=True)]
                for part in ("loss", "late")
            ]
            agreement = sum(found[name]["agreement"] for name in names) / len(names)
            yield [
                way,
                f"{100 * found[names[0]]['bytes']:.1f} %",
                *(", ".join(f"{100 * each:+.1f} %" for each in row) for row in rises),
                f"{100 * agreement:.1f} %",
            ]


def llama_rows(found):
    """One row for every way, with the right answers of the embedded Llama at every share."""
    shares = sorted({name.split()[-1] for name in found} - {"whole"})
    yield ["whole", *(f"{100 * found['whole']:.1f} %" for _ in shares)]
    for way in WAYS:
        if f"{way} {shares[0]}" in found:
            yield [way, *(f"{100 * found[f'{way} {share}']:.1f} %" for share in shares)]


def recall_rows(found):
    """One row for every task and way."""
    for name, each in found.items():
        if name.startswith("recall "):
            task = next(one for one in ("needle 0", "needle 1", "induction") if one in name)
            way = name.removeprefix(f"recall {task} ")
            yield [task, way, f"{each['loss']:.3f}", f"{100 * each['right']:.0f} %"]


def draw(found, path):
    """Draw rise of the perplexity against the share of the bytes, one line for each way."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4))
    for way in WAYS:
        points = [
            (found[name]["bytes"], 100 * rise(found, name, 0))
            for share in sorted(SHARES)
            if (name := f"{way} {share} 0") in found
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=way)
    axes.set(xlabel="share of the bytes", ylabel="rise of the perplexity (%)", yscale="symlog")
    axes.axhline(2, color="0.7", linewidth=1)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize="small")
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")


def main():
    found = json.loads((KEPT / "results.json").read_text())
    parts = [
        table(
            ("chosen by", "bytes", "perplexity", "last 512 tokens", "same first token"),
            curve_rows(found),
        ),
        table(("task", "chosen by", "loss", "right"), recall_rows(found)),
        table(
            ("single groups at 512 tokens", "groups", "rank correlation"),
            correlations(json.loads((KEPT / "heads.json").read_text())),
        ),
    ]
    llama = json.loads((HERE / "llama.json").read_text(encoding="utf-8"))
    shares = sorted({name.split()[-1] for name in llama} - {"whole"})
    heads = (
        "embedded Llama, right at",
        *(f"{100 * float(each):.0f} % of the bytes" for each in shares),
    )
    parts.append(table(heads, llama_rows(llama)))
    (HERE / "heads.json").write_text((KEPT / "heads.json").read_text(), encoding="utf-8")
    rows = [
        (name, length, f"{each[f'{name} bytes']:,}", f"{each[f'{name} tokens per second']:.1f}")
        for length in ("512", "2048")
        if (each := found.get(f"speed {length}"))
        for name in ("whole", "dsf")
    ]
    parts.append(table(("cache", "tokens", "bytes", "tokens per second"), rows))
    put_into(HERE / "README.md", "\n\n".join(parts))
    kept = {name: each for name, each in found.items() if not name.startswith("whole")}
    kept |= {
        f"whole {n}": {**found[f"whole {n}"], "top": None} for n in (0, 1) if f"whole {n}" in found
    }
    (HERE / "results.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    draw(found, HERE / "curve.png")
    LinearisationPlan.load(KEPT / "second").figure().savefig(HERE / "plan.png")


if __name__ == "__main__":
    main()
