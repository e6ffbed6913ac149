"""Do shares predict what a cut edge costs? Single edges into the last token, cut one by one.

For every prompt the difference of the model's two top logits is attributed, once with all factors
held and once by gradient; then each edge is cut (``dsf.sweep``) and what is lost is compared.

    python -m experiments.predicted_cuts.run            # the four embedded text models
    python -m experiments.predicted_cuts.run FOLDER     # another checkpoint with a tokenizer

Of another checkpoint some edges and heads are cut, for twenty prompts: half of them the strongest
by gradient, the others drawn.
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
TWENTY = (
    "The capital of France is",
    "The opposite of hot is",
    "Two plus two equals",
    "The sun rises in the",
    "Water freezes at zero degrees",
    "She opened the door and walked",
    "The author of Hamlet was William",
    "Once upon a time there was a",
    "My favourite colour is dark",
    "He plays the piano and the",
    "The largest ocean on Earth is the",
    "An apple a day keeps the doctor",
    "Monday, Tuesday, Wednesday,",
    "The president of the United",
    "A triangle has three",
    "Please turn off the",
    "In 1969 men landed on the",
    "Bread is made of flour and",
    "The cat chased the",
    "To be or not to",
)
AVERAGED = "gradient, averaged"
"""Heads as ``strongest_heads`` ranks them: of the ten largest the mean from cut to whole."""
SAMPLED = 24
"""Number of edges, and of heads, that are cut for each of the twenty prompts."""


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


def sampled(path):
    """Return predicted and measured losses of some edges and heads, by prompt."""
    loaded, rng = load_model(path), torch.Generator().manual_seed(0)
    found = {"edges": [], "heads": []}
    for prompt in TWENTY:
        ids = torch.tensor([loaded.tokenizer.encode(prompt)])
        with torch.no_grad():
            first, second = loaded.model(input_ids=ids).logits[0, -1].topk(2).indices.tolist()
        stack = dsf.stack(loaded.model, input_ids=ids)
        share = stack.attribute(first, against=second)
        names = [name for name in share.total if has_edges(share, name)]
        into_last = {
            way: torch.stack([share.edge_sums(name, way)[0, -1] for name in names]) for way in WAYS
        }
        heads = {way: share.heads(way)[0] for way in WAYS}
        heads[AVERAGED] = heads["gradient"].clone()
        every = [layer.name for layer in stack.inspection]
        for row in share.strongest_heads(by="gradient"):
            heads[AVERAGED][every.index(row["layer"]), row["head"]] = row["integrated"]
        for kind, shares in (("edges", into_last), ("heads", heads)):
            places = chosen(shares["gradient"], rng)
            edits = [
                dsf.edits.Cut(names[layer], query=-1, key=at)
                if kind == "edges"
                else dsf.edits.Ablate(names[layer], heads=[at])
                for layer, at in places
            ]
            effects = dsf.sweep(
                loaded.model, input_ids=ids, edits=edits, target=first, against=second
            )
            rows, columns = zip(*places, strict=True)
            found[kind].append({way: each[rows, columns].tolist() for way, each in shares.items()})
            found[kind][-1]["measured"] = (-effects[:, 0]).tolist()
        print(prompt, {k: correlations(v[-1:])["gradient"] for k, v in found.items()}, flush=True)
    return found


def chosen(shares, rng):
    """Return places of entries: half are the largest, half are drawn among the others."""
    order = shares.abs().flatten().argsort(descending=True)
    rest = order[SAMPLED // 2 :]
    drawn = rest[torch.randperm(len(rest), generator=rng)[: SAMPLED // 2]]
    return [divmod(int(at), shares.shape[1]) for at in (*order[: SAMPLED // 2], *drawn)]


def correlations(found):
    """Return the mean over prompts of the rank correlation, and the share of right signs."""
    rows = {}
    for way in (way for way in found[0] if way != "measured"):
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
    here, results, table = Path(__file__).parent, {}, {}
    for path in sys.argv[1:]:
        found = sampled(path)
        table[Path(path).name] = {kind: correlations(each) for kind, each in found.items()}
        print(json.dumps(table), flush=True)
        text = json.dumps(table | {"prompts": len(TWENTY), "cut": SAMPLED}, indent=2)
        (here / f"{Path(path).name}.json").write_text(text + "\n", encoding="utf-8")
    if sys.argv[1:]:
        return
    for name in MODELS:
        results[name] = edges_into_the_last_token(str(folder(name)))
        table[name] = correlations(results[name])
        print(name, json.dumps(table[name]), flush=True)
    (here / "results.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    draw(results, here / "predicted_cuts.png")


if __name__ == "__main__":
    main()
