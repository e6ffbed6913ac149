"""Do shares predict what a cut edge costs? Single edges into the last token, cut one by one.

For every prompt the difference of the model's two top logits is attributed, once with all factors
held and once by gradient; then each edge is cut (``dsf.sweep``) and what is lost is compared.

    python -m experiments.predicted_cuts.run            # the four embedded text models
    python -m experiments.predicted_cuts.run FOLDER     # another checkpoint with a tokenizer
"""

import json
import sys
from pathlib import Path

import torch
from scipy.stats import spearmanr

import dsf
from dsf.loading import load_model
from dsf.models import folder

MODELS = ("text_llama", "text_mamba", "text_mamba2", "text_qwen3_next")
PROMPTS = (
    "And all our yesterdays have lighted fools",
    "The king is dead, long live the",
    "What light through yonder window breaks",
)
WAYS = ("held", "gradient")


def edges_into_the_last_token(path, prompts=PROMPTS):
    """Return predicted and measured losses of every edge, by prompt."""
    loaded = load_model(path)
    model = loaded.model.double()
    found = []
    for prompt in prompts:
        ids = torch.tensor([loaded.tokenizer.encode(prompt)])
        with torch.no_grad():
            first, second = model(input_ids=ids).logits[0, -1].topk(2).indices.tolist()
        share = dsf.stack(model, input_ids=ids).attribute(first, against=second)
        names, edits = list(share.total), []
        names = [name for name in names if has_edges(share, name)]
        shares = {
            way: torch.cat([share.edge_sums(name, way)[0, -1] for name in names]) for way in WAYS
        }
        for name in names:
            edits += [dsf.edits.Cut(name, query=-1, key=read) for read in range(ids.shape[1])]
        effects = dsf.sweep(model, input_ids=ids, edits=edits, target=first, against=second)
        found.append({way: each.tolist() for way, each in shares.items()})
        found[-1]["measured"] = (-effects[:, 0]).tolist()
    return found


def has_edges(share, name):
    """Whether a part is a mixer with edges."""
    try:
        share.edge_sums(name, "gradient")
    except (KeyError, dsf.inspection.InspectionError):
        return False
    return True


def correlations(found):
    """Return the mean over prompts of the rank correlation, and the share of right signs."""
    rows = {}
    for way in WAYS:
        ranks, signs = [], []
        for each in found:
            guess, lost = torch.tensor(each[way]), torch.tensor(each["measured"])
            ranks.append(float(spearmanr(guess, lost).statistic))
            big = lost.abs() >= lost.abs().quantile(0.8)
            signs.append(float((guess.sign() == lost.sign())[big].double().mean()))
        rows[way] = {
            "rank correlation": round(sum(ranks) / len(ranks), 3),
            "right sign in the largest fifth": round(sum(signs) / len(signs), 3),
        }
    return rows


def draw(results, path):
    """Draw predicted against measured losses, one panel for each model and way."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(WAYS), len(results), figsize=(3 * len(results), 6), squeeze=False
    )
    for column, (name, found) in enumerate(results.items()):
        for row, way in enumerate(WAYS):
            axes = panels[row][column]
            for each in found:
                axes.scatter(each["measured"], each[way], s=4, color="tab:blue", alpha=0.4)
            axes.axline((0, 0), slope=1, color="0.7", linewidth=1)
            axes.set(title=f"{name}, {way}", xlabel="lost when cut", ylabel="predicted")
    figure.tight_layout()
    figure.savefig(path)


def main():
    paths = sys.argv[1:] or [str(folder(name)) for name in MODELS]
    results, table = {}, {}
    for path in paths:
        name = Path(path).name
        results[name] = edges_into_the_last_token(path)
        table[name] = correlations(results[name])
        print(name, json.dumps(table[name]), flush=True)
    if not sys.argv[1:]:
        here = Path(__file__).parent
        (here / "results.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        draw(results, here / "predicted_cuts.png")


if __name__ == "__main__":
    main()
