"""Tables of Markdown from the numbers of the experiment."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from papers.in_line.experiments.digits import figure_one
from papers.in_line.experiments.digits.settings import ATTENTIONS, COMPARED
from papers.in_line.experiments.digits.summary import Summary


def figure_one_table() -> str:
    """All 96 weights, printed and ours to three places."""
    rows = []
    for name, panel in figure_one.PANELS.items():
        for attention, weights in figure_one.our_weights(panel).items():
            printed = getattr(panel, attention)
            for query, (ours, theirs) in enumerate(zip(weights.tolist(), printed, strict=True), 1):
                difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
                rows.append([
                    f"{name}, q{query}",
                    attention.replace("_", "-"),
                    " ".join(f"{weight:.2f}" for weight in theirs),
                    " ".join(f"{weight:.3f}" for weight in ours),
                    f"{difference:.4f}",
                ])  # fmt: skip
    return table(["query", "attention", "printed, k1 to k4", "ours", "largest difference"], rows)


def largest_differences_table() -> str:
    """Per panel and attention."""
    rows = [
        [name, *(f"{each:.4f}" for each in figure_one.largest_differences(panel).values())]
        for name, panel in figure_one.PANELS.items()
    ]
    return table(["panel", "softmax", "linear", "InLine"], rows)


def accuracy_table(found: Mapping[str, Summary]) -> str:
    """Test accuracy of every seed, without and with the local residual."""
    rows = []
    for attention in ATTENTIONS:
        plain, local = found.get(attention), found.get(f"{attention}+local")
        rows.append([attention, _accuracies(plain), _accuracies(local)])
    return table(["attention", "accuracy, seeds in order", "with the local residual"], rows)


def _accuracies(summary: Summary | None) -> str:
    if summary is None:
        return ""
    stopped = ["stopped"] * summary["stopped"]
    return " ".join([*(f"{100 * each:.1f}" for each in summary.get("accuracies", [])), *stopped])


def confusion_table(found: Mapping[str, Summary]) -> str:
    """Confused pairs of an image: mean of each seed, and the share of images without any."""
    rows = [
        [variant, *(_counts(entry["confusions"][threshold]) for threshold in entry["confusions"])]
        for variant, entry in _trained(found)
    ]
    return table(["attention", "absolute threshold", "relative threshold"], rows)


def _counts(seeds: Sequence[Mapping[str, float]]) -> str:
    means = " ".join(f"{seed['mean']:.1f}" for seed in seeds)
    without = median(seed["images_without"] for seed in seeds)
    return f"{means} ({100 * without:.0f} %)"


def peaked_table(found: Mapping[str, Summary]) -> str:
    """Of softmax, seed by seed: rows with one large weight, and how many confusions are theirs."""
    rows = [
        [
            variant,
            " ".join(f"{100 * seed['peaked_rows']:.1f} %" for seed in entry["peaked"]),
            " ".join(f"{seed['confusions']:.1f}" for seed in entry["peaked"]),
            " ".join(f"{seed['between_peaked_rows']:.1f}" for seed in entry["peaked"]),
        ]
        for variant, entry in _trained(found)
        if "peaked" in entry
    ]
    return table(["attention", "peaked rows", "confused pairs", "of these between peaked"], rows)


def locality_table(found: Mapping[str, Summary]) -> str:
    """Share on the 3 x 3 neighbourhood, block by block, under both conventions."""
    rows = []
    for variant, entry in _compared(found):
        locality, before = entry["locality"], entry["locality_untrained"]
        rows.append([
            variant,
            _curve(locality["interior"]),
            _curve(locality["edge_aware"]),
            _curve(before["interior"]),
            _curve(locality["signed"]) if locality["signed"] != locality["interior"] else "",
        ])  # fmt: skip
    head = ["attention", "interior, blocks 1 to 4", "edge-aware", "interior, untrained"]
    return table([*head, "interior, signed sums where weights are negative"], rows)


def _curve(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)


def masking_table(found: Mapping[str, Summary]) -> str:
    """Accuracy, and what it becomes when a window or as many random tokens are hidden."""
    rows = []
    for variant, entry in _compared(found):
        cells = [
            f"{100 * pair['local']:.1f} / {100 * pair['random']:.1f}"
            for pair in entry["masked"].values()
        ]
        rows.append([variant, f"{100 * entry['accuracy']:.1f}", *cells])
    return table(["attention", "nothing hidden", "1 x 1", "3 x 3", "5 x 5"], rows)


def speed_table(times: Sequence[Mapping[str, float]]) -> str:
    """Milliseconds and the ratios softmax / InLine."""
    rows = [
        [
            f"{row['tokens']:.0f}",
            *(f"{row[name]:.2f}" for name in ("softmax_by_its_map", "in_line_by_its_sums")),
            f"{row['softmax_by_its_map'] / row['in_line_by_its_sums']:.2g}",
            *(f"{row[name]:.2f}" for name in ("softmax_by_dsf", "in_line_by_dsf")),
            f"{row['softmax_by_dsf'] / row['in_line_by_dsf']:.2g}",
        ]
        for row in times
    ]
    head = ["tokens", "softmax by its map", "InLine by its sums", "ratio"]
    return table([*head, "softmax, `dsf.respond`", "InLine, `dsf.respond`", "ratio"], rows)


def gap_table(gaps: Sequence[Mapping[str, float]]) -> str:
    """Largest gap of a weight, the second-order term, and the slope from the scale before."""
    rows = [
        [
            f"{row['scale']:g}",
            f"{row['gap']:.4g}",
            f"{row['next_order']:.4g}",
            f"{row['local_slope']:.3f}" if "local_slope" in row else "",
        ]
        for row in gaps
    ]
    return table(["scale of the logits", "largest gap", "second-order term", "slope"], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _trained(found: Mapping[str, Summary]) -> list[tuple[str, Summary]]:
    return [(variant, entry) for variant, entry in found.items() if "accuracy" in entry]


def _compared(found: Mapping[str, Summary]) -> list[tuple[str, Summary]]:
    names = [name + local for local in ("", "+local") for name in COMPARED]
    trained = dict(_trained(found))
    return [(name, trained[name]) for name in names if name in trained]
