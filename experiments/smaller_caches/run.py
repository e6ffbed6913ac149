"""What a smaller cache costs SmolLM2-135M: plans of ``dsf.linearise`` against five baselines.

Texts are Shakespeare's plays (experiments/text_models), cut to 2,048 tokens: plans are made on
plays of the training part, everything is measured on plays that are held out. Every measurement
is kept in a file and not repeated, so that the script can be stopped and run again.

    python -m experiments.smaller_caches.run             # all, hours on one slow core
    python -m experiments.smaller_caches.run half speed  # some of the parts
"""

import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy, kl_div

import dsf
from dsf.interventions.kept_cache import cache_bytes
from dsf.interventions.kept_keys import KeptForm
from dsf.interventions.linearisation import LinearisationPlan
from dsf.loading import load_model
from experiments.text_models import text

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MODEL = ROOT / ".pretrained" / "smollm2"
KEPT = ROOT / ".pretrained" / "smaller_caches"
TOKENS = 2048
PLAN_AT = (200_000, 2_500_000)
PLACE, OTHER = 20_000, 200_000
HELD_OUT_AT = (PLACE, OTHER)
FORMS = (
    *(f"SinkWindow(4, {window})" for window in (64, 128, 256, 512, 1024)),
    *(f"SinkWindowState(4, {window}, 16)" for window in (64, 256)),
)
SHARES = (0.5, 0.3, 0.7)
PARTS = ("embedded", "heads", "half", "speed", "baselines", "recall", "curve")
SINGLE, HEAD_TOKENS = 24, 512
"""Number of single groups whose harm is measured, and on how many tokens."""


def model_and_tokenizer():
    loaded = load_model(MODEL)
    return loaded.model.eval(), loaded.tokenizer


def tokens(tokenizer, plays, at, count=TOKENS):
    """The tokens of a text from a place on."""
    return torch.tensor(tokenizer.encode(plays[at : at + 8 * count])[:count])


class Results:
    """Measurements in a file, each under its name, written as soon as it is there."""

    def __init__(self, path):
        self.path = path
        self.found = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name, measure):
        if name not in self.found:
            begin = time.perf_counter()
            self.found[name] = measure()
            self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
            print(f"{time.perf_counter() - begin:6.0f} s", name, self.found[name], flush=True)
        return self.found[name]


def both_plans(model, tokenizer):
    """The plan from derivatives at the whole model, and the one with another round; made once."""
    places = [KEPT / "first", KEPT / "second"]
    plays = text.read().train
    ids = torch.stack([tokens(tokenizer, plays, at) for at in PLAN_AT])
    if not (places[0] / "plan.json").exists():
        dsf.linearise(model, input_ids=ids, bytes=0.5, candidates=FORMS, rounds=0).save(places[0])
        print("first plan", time.process_time(), flush=True)
    first = LinearisationPlan.load(places[0])
    if not (places[1] / "plan.json").exists():
        dsf.linearise(model, input_ids=ids[1:], bytes=0.5, begin=first).save(places[1])
        print("second plan", time.process_time(), flush=True)
    return first, LinearisationPlan.load(places[1])


def by(plan, score):
    """The same candidates under another score in place of the predicted harm."""
    candidates = tuple(
        tuple(replace(row, predicted=0.0 if row.form == "keep" else score(row)) for row in rows)
        for rows in plan.candidates
    )
    return replace(plan, candidates=candidates)


def uniform(plan, share, sinks):
    """One window for all groups, as large as the bytes allow."""
    window = int(share * plan.tokens) - sinks
    name = str(KeptForm(window, sinks))
    keep = [max(rows, key=lambda row: row.bytes) for rows in plan.candidates]
    size = [row.bytes // plan.tokens * (window + sinks) for row in keep]
    rows = [replace(row, form=name, bytes=held) for row, held in zip(keep, size, strict=True)]
    return replace(plan, rows=tuple(rows))


def plans(plan, first, share):
    """The plan of each way of choosing that needs no maps, at the same share of the bytes."""
    drawn = random.Random(0)
    noise = {(row.layer, row.head): drawn.random() for row in plan.rows}
    whole = plan.whole_bytes / len(plan.rows)

    def chance(row):
        return noise[row.layer, row.head] * (1 - row.bytes / whole)

    return {
        "dsf": plan.within(bytes=share),
        "uniform window": uniform(plan, share, 0),
        "sink and window": uniform(plan, share, 4),
        "dsf without states": without_states(plan).within(bytes=share),
        "random": by(plan, chance).within(bytes=share),
        "dsf, first round": first.within(bytes=share),
    }


def plans_by_maps(plan, scores, share):
    """The plans chosen by distant mass and by the size of the difference of the maps."""

    def score(which):
        return lambda row: scores[f"{row.layer} {row.head} {row.form}"][which]

    return {
        "distant mass": by(plan, score(0)).within(bytes=share),
        "map difference": by(plan, score(1)).within(bytes=share),
    }


def without_states(plan):
    rows = tuple(tuple(row for row in rows if "State" not in row.form) for rows in plan.candidates)
    return replace(plan, candidates=rows)


def map_scores(model, tokenizer, plan):
    """Mean distant mass and norm of the map difference, by group and form, over every 8th row."""
    path = KEPT / "map_scores.json"
    if path.exists():
        return json.loads(path.read_text())
    from dsf.interventions import kept_cache, kept_keys

    ids = tokens(tokenizer, text.read().train, PLAN_AT[0])
    run = kept_cache.recorded(model, ids, ids)
    rows = torch.arange(7, TOKENS, 8)
    ahead = torch.arange(TOKENS) > rows.unsqueeze(-1)
    found = {}
    for group in plan.candidates:
        maps = run[group[0].layer].of(group[0].head)
        scores = (maps.query[:, rows] @ maps.key.mT).masked_fill(ahead, -torch.inf)
        whole = scores.softmax(dim=-1)
        for row in group:
            form = KeptForm.parse(row.form)
            name = f"{row.layer} {row.head} {row.form}"
            if form.window is None:
                found[name] = [0.0, 0.0]
                continue
            between = kept_keys.is_between(rows, form, TOKENS)
            small = scores.masked_fill(between, -torch.inf)
            if form.features:
                top = scores.amax(dim=-1, keepdim=True)
                state = kept_keys.between_entries(maps, plan.states[name], form, rows, top)
                small = torch.where(between, state.log() + top, small)
            small = small.softmax(dim=-1)
            found[name] = [
                (whole * between).sum(dim=-1).mean().item(),
                (small - whole).norm(dim=-1).mean().item(),
            ]
    path.write_text(json.dumps(found))
    return found


@torch.no_grad()
def judged(model, whole, ids):
    """Perplexity and agreement of the most probable token with the whole model."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    loss = cross_entropy(logits, ids[1:]).item()
    late = cross_entropy(logits[-512:], ids[1:][-512:]).item()
    best = logits.argmax(dim=-1)
    return loss, late, best, (1.0 if whole is None else (best == whole).float().mean().item())


def judge(results, model, ids, number, ways, share):
    """Perplexity and agreement of several plans on one text."""

    def whole():
        loss, late, top, _ = judged(model, None, ids)
        return {"loss": loss, "late": late, "top": top.tolist()}

    top = torch.tensor(results.get(f"whole {number}", whole)["top"])
    for name, chosen in ways.items():

        def measure(chosen=chosen):
            loss, late, _, agreement = judged(chosen.applied(model), top, ids)
            return {
                "loss": loss,
                "late": late,
                "agreement": agreement,
                "bytes": chosen.bytes / chosen.whole_bytes,
                "predicted": chosen.predicted,
            }

        results.get(f"{name} {share} {number}", measure)


def half(results, model, tokenizer, plan, first):
    """Half of the bytes on the first held-out text."""
    ids = tokens(tokenizer, text.read().held_out, HELD_OUT_AT[0])
    judge(results, model, ids, 0, plans(plan, first, 0.5), 0.5)


def baselines(results, model, tokenizer, plan, _):
    """The choices by maps, at half of the bytes on the first held-out text."""
    ids = tokens(tokenizer, text.read().held_out, HELD_OUT_AT[0])
    scores = map_scores(model, tokenizer, plan)
    judge(results, model, ids, 0, plans_by_maps(plan, scores, 0.5), 0.5)


def curve(results, model, tokenizer, plan, first):
    """All shares on both held-out texts."""
    for number, at in enumerate(HELD_OUT_AT):
        ids = tokens(tokenizer, text.read().held_out, at)
        for share in SHARES:
            ways = plans(plan, first, share)
            if share != 0.5:
                ways.pop("dsf, first round")
            judge(results, model, ids, number, ways, share)
            scores = map_scores(model, tokenizer, plan)
            judge(results, model, ids, number, plans_by_maps(plan, scores, share), share)


def recall(results, model, tokenizer, plan, first):
    """Needle and induction: the loss and accuracy at tokens that only the far past tells."""
    plays = text.read().held_out
    ways = {"whole": None, **plans(plan, first, 0.5)}
    ways = {name: ways[name] for name in ("whole", "dsf", "sink and window", "uniform window")}
    drawn = random.Random(1)
    prompts = {}
    for number in range(2):
        code = "".join(str(drawn.randrange(10)) for _ in range(6))
        hay = tokens(tokenizer, plays, 60_000 + 100_000 * number, 1500).tolist()
        needle = tokenizer.encode(f"\n\nThe secret code is {code}. Remember it.\n\n")
        place = 150 + 500 * number
        asked = tokenizer.encode("\n\nThe secret code is ")
        answer = tokenizer.encode(code)
        prompts[f"needle {number}"] = (
            [*hay[:place], *needle, *hay[place:], *asked, *answer],
            len(answer),
        )
    generator = torch.Generator().manual_seed(0)
    block = torch.randint(1000, 40000, (384,), generator=generator).tolist()
    prompts["induction"] = ([*block, *block], 383)
    for task, (ids, answers) in prompts.items():
        for name, chosen in ways.items():

            @torch.no_grad()
            def measure(chosen=chosen, ids=ids, answers=answers):
                small = model if chosen is None else chosen.applied(model)
                ids = torch.tensor(ids)
                logits = small(input_ids=ids[None], use_cache=False).logits[0, -answers - 1 : -1]
                right = (logits.argmax(dim=-1) == ids[-answers:]).float().mean().item()
                return {"loss": cross_entropy(logits, ids[-answers:]).item(), "right": right}

            results.get(f"recall {task} {name}", measure)


def speed(results, model, tokenizer, plan, _):
    """Bytes of the cache and tokens per second of decoding behind 2,048 tokens."""
    ids = tokens(tokenizer, text.read().held_out, HELD_OUT_AT[0])
    small = plan.within(bytes=0.5).applied(model)
    for length in (512, 2048):

        @torch.no_grad()
        def measure(length=length):
            caches, times, found = {}, {"whole": [], "dsf": []}, {}
            models = {"whole": model, "dsf": small}
            for name, each in models.items():
                output = each(input_ids=ids[None, :length], use_cache=True, logits_to_keep=1)
                caches[name] = output.cache
                found[f"{name} bytes"] = cache_bytes(output.cache)
            token = ids[None, -1:]
            # in turns, so that both meet the same load of the machine; the processor time counts
            for _ in range(16):
                for name, each in models.items():
                    begin = time.process_time()
                    each(input_ids=token, cache=caches[name], use_cache=True)
                    times[name].append(time.process_time() - begin)
            for name, each in times.items():
                found[f"{name} tokens per second"] = 1 / sorted(each)[len(each) // 2]
            return found

        results.get(f"speed {length}", measure)


def heads(model, tokenizer):
    """Predicted and measured harm of single groups, at 512 tokens, in a file of its own."""
    results = Results(KEPT / "heads.json")
    plays = text.read()
    ids = tokens(tokenizer, plays.train, PLAN_AT[0], HEAD_TOKENS)
    texts = {"plan": ids, "held out": tokens(tokenizer, plays.held_out, PLACE, HEAD_TOKENS)}
    forms = ("SinkWindow(4, 64)", "SinkWindow(4, 16)", "SinkWindowState(4, 64, 16)")
    place = KEPT / "heads"
    if not (place / "plan.json").exists():
        options = {"candidates": forms, "bytes": 1.0, "rounds": 0}
        dsf.linearise(model, input_ids=ids[None], **options).save(place)
    plan = LinearisationPlan.load(place)
    with torch.no_grad():
        whole = {
            name: model(input_ids=each[None], use_cache=False).logits[0, :-1]
            for name, each in texts.items()
        }
    numbers = random.Random(2).sample(range(len(plan.candidates)), SINGLE)
    for at, number in enumerate(numbers):
        row = next(r for r in plan.candidates[number] if r.form == forms[at % len(forms)])
        alone = replace(plan, rows=(*plan.rows[:number], row, *plan.rows[number + 1 :]))
        for name, each in texts.items():

            @torch.no_grad()
            def measure(each=each, alone=alone, row=row, whole=whole[name]):
                logits = alone.applied(model)(input_ids=each[None], use_cache=False).logits[0, :-1]
                apart = kl_div(
                    logits.log_softmax(-1), whole.log_softmax(-1), log_target=True, reduction="sum"
                )
                change = cross_entropy(logits, each[1:]) - cross_entropy(whole, each[1:])
                return {
                    "predicted": row.predicted,
                    "change": change.item(),
                    "divergence": apart.item() / len(logits),
                }

            results.get(f"group {name} {number}", measure)


def embedded():
    """Right answers of the embedded Llama on held-out sequences, by share of the bytes."""
    from dsf.models import folder, recall

    model = load_model(folder("llama")).model.eval()
    drawn = recall.draw(torch.Generator().manual_seed(0), 16)
    judged_on = recall.draw(torch.Generator().manual_seed(1), 500)
    options = {"input_ids": drawn.tokens, "labels": drawn.targets.roll(1, dims=1), "bytes": 1.0}
    first = dsf.linearise(model, rounds=0, **options)
    found = {"whole": recall.accuracy(model, judged_on)}
    for share in (0.8, 0.7, 0.6, 0.5):
        second = dsf.linearise(model, begin=first, **{**options, "bytes": share})
        for name, chosen in plans(second, first, share).items():
            small = chosen.applied(model)
            found[f"{name} {share}"] = recall.accuracy(small, judged_on)
    (HERE / "llama.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def correlations(found):
    """Rank correlations of what is predicted or measured on the texts, by what they compare.

    What the harm measured on the plan text says of that on the held-out one is what any prediction
    from the plan text can hope for.
    """
    numbers = [key.split()[-1] for key in found if key.startswith("group held out")]

    def column(name, part):
        return [abs(found[f"group {name} {number}"][part]) for number in numbers]

    compared = {
        "predicted and measured size, plan text": ("plan", "predicted", "plan", "change"),
        "predicted and divergence, plan text": ("plan", "predicted", "plan", "divergence"),
        "predicted and measured size, held-out text": ("plan", "predicted", "held out", "change"),
        "predicted and divergence, held-out text": ("plan", "predicted", "held out", "divergence"),
        "measured size, both texts": ("plan", "change", "held out", "change"),
        "divergence, both texts": ("plan", "divergence", "held out", "divergence"),
    }
    for words, (one, part, other, against) in compared.items():
        rank = spearmanr(column(one, part), column(other, against)).statistic
        yield [words, str(len(numbers)), f"{rank:.2f}"]


def main():
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    parts = sys.argv[1:] or PARTS
    if "embedded" in parts:
        embedded()
    if {*parts} == {"embedded"}:
        return
    model, tokenizer = model_and_tokenizer()
    if "heads" in parts:
        heads(model, tokenizer)
    results = Results(KEPT / "results.json")
    first, plan = both_plans(model, tokenizer)
    every = (half, speed, baselines, recall, curve)
    for part in every:
        if part.__name__ in parts:
            part(results, model, tokenizer, plan, first)


if __name__ == "__main__":
    main()
