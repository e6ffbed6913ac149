"""With how many bits does a recurrent state have to be stored? Forecast, bound and plan.

    python -m experiments.state_budget.run

For the embedded hybrid and Mamba-2: the forecast of each head's error against a run with a rounded
state, the bound on 10,000 drawn systems, and plans against uniform bits at equal loss.
"""

import json
from functools import partial
from pathlib import Path

import torch

import dsf
from dsf.interventions.edited_mixing import is_recurrent
from dsf.interventions.state_budget import (
    bound,
    forecast,
    replayed,
    rounded,
    rounded_at_random,
    rounded_run,
    with_feedback,
)
from dsf.loading import load_model
from dsf.models import folder
from dsf.systems import System, transition

MODELS = ("text_qwen3_next", "text_mamba2")
TEXT = (
    "And all our yesterdays have lighted fools the way to dusty death. Out, out, brief candle! "
    "Life's but a walking shadow, a poor player that struts and frets his hour upon the stage"
)
HELD_OUT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the "
    "slings and arrows of outrageous fortune, or to take arms against a sea of troubles",
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate: rough winds "
    "do shake the darling buds of May, and summer's lease hath all too short a date",
    "Now is the winter of our discontent made glorious summer by this sun of York; and all the "
    "clouds that lour'd upon our house in the deep bosom of the ocean buried",
    "If music be the food of love, play on; give me excess of it, that, surfeiting, the appetite "
    "may sicken, and so die. That strain again! it had a dying fall",
    "All the world's a stage, and all the men and women merely players: they have their exits and "
    "their entrances; and one man in his time plays many parts",
)
"""Texts on which errors of plans are measured; a plan is made on ``TEXT``."""
BITS = (3, 4, 6, 8)
CASES = 10_000
HERE = Path(__file__).parent


SCHEMES = {
    "nearest": {},
    "nearest, fed back": {"feedback": True},
    "at random": {"at_random": True},
    "at random, fed back": {"at_random": True, "feedback": True},
}
"""Ways of rounding, as ``forecast`` has them."""
STEP = 1 / 80
"""By what part of the bytes of uniform bits one budget is below the next."""


def store_of(bits, rng, *, at_random=False, feedback=False):
    """Return the function that rounds the state of one token."""
    store = (
        partial(rounded_at_random, bits=bits, rng=rng) if at_random else partial(rounded, bits=bits)
    )
    return with_feedback(store) if feedback else store


def head_errors(layer, bits, rng):
    """Return forecast and measured errors of the heads of a layer by scheme, and what holds."""
    system, signal = layer.mixer.system(), layer.mixer.signal()
    every = torch.full(system.batch, float(bits), dtype=signal.dtype)
    clean, found = dsf.respond(system, signal), {}
    for name, scheme in SCHEMES.items():
        response, errors = rounded_run(system, signal, store_of(every, rng, **scheme))
        apart = response - clean
        measured = apart.square().sum(dim=(-3, -2, -1)).sqrt().flatten()
        predicted = forecast(system, signal, every, **scheme).sum(dim=-1).sqrt().flatten()
        found[name] = predicted.tolist(), measured.tolist()
        if name == "nearest":
            replay = float((apart - replayed(system, errors)).norm() / apart.norm())
            held = bool((apart.abs().amax(dim=(-2, -1)) <= bound(system, signal, every)).all())
    return found, replay, held


def within_two(pairs):
    """Return the share of forecasts within a factor of 2 of what was measured."""
    return sum(0.5 <= predicted / measured <= 2 for predicted, measured in pairs) / len(pairs)


def feedback_pays(errors):
    """Return for how many heads feedback lowers the error, and how many were forecast rightly."""
    pairs = list(zip(errors["nearest"], errors["nearest, fed back"], strict=True))
    pays = [fed[1] < plain[1] for plain, fed in pairs]
    said = [fed[0] < plain[0] for plain, fed in pairs]
    right = sum(one == other for one, other in zip(pays, said, strict=True))
    return {"pays": sum(pays), "forecast rightly": right, "heads": len(pairs)}


def drawn_case(rng, steps=12, states=4, channels=3):
    """Return a drawn delta rule or decay, its values, and bits."""

    def normal(*shape):
        return torch.randn(1, *shape, generator=rng, dtype=torch.float64)

    decay = torch.rand(1, steps, states, generator=rng, dtype=torch.float64)
    if torch.rand((), generator=rng) < 0.5:
        key = torch.nn.functional.normalize(normal(steps, states), dim=-1)
        rate = torch.rand(1, steps, generator=rng, dtype=torch.float64)
        mixer = dsf.mixers.GatedDeltaNet(
            query=normal(steps, states),
            key=key,
            value=normal(steps, channels),
            rate=rate,
            log_decay=decay[..., 0].log(),
        )
        return mixer.system(), mixer.signal()
    system = System(transition.Diagonal(decay), normal(steps, states, 1), normal(steps, 1, states))
    return system, normal(steps, 1, channels)


def violations(cases=CASES):
    """Count drawn cases whose error exceeds its bound."""
    rng, found = torch.Generator().manual_seed(0), 0
    for _ in range(cases):
        system, signal = drawn_case(rng)
        bits = torch.randint(2, 9, (1,), generator=rng).double()
        response, _ = rounded_run(system, signal, partial(rounded, bits=bits))
        apart = (response - dsf.respond(system, signal)).abs().amax(dim=(-2, -1))
        found += not bool((apart <= bound(system, signal, bits)).all())
    return found


@torch.no_grad()
def logit_error(plan, model, texts):
    """Return the root mean square of the change of the margin of the two top logits."""
    changes = []
    for ids in texts:
        clean = model(input_ids=ids).logits.double()
        top = clean.topk(2, dim=-1).indices
        margins = []
        for logits in (clean, plan.applied(model)(input_ids=ids).logits.double()):
            first, second = logits.gather(-1, top).unbind(dim=-1)
            margins.append(first - second)
        changes.append((margins[1] - margins[0]).flatten())
    return float(torch.cat(changes).square().mean().sqrt())


def plans(model, ids, texts):
    """Return one record for each uniform number of bits: the smallest plan of at most its error.

    Budgets fall step by step, until a plan's error is larger.
    """
    plan = dsf.plan_state(model, input_ids=ids, bytes=10**9)
    found, least = [], plan.uniform(2).bytes
    for bits in BITS:
        uniform = plan.uniform(bits)
        error = logit_error(uniform, model, texts)
        best, budget, tried = (uniform, error), uniform.bytes, {uniform.bytes}
        while (budget := budget - uniform.bytes * STEP) >= least:
            smaller = plan.within(int(budget))
            if smaller.bytes in tried:
                continue
            tried.add(smaller.bytes)
            own = logit_error(smaller, model, texts)
            if own > error:
                break
            best = smaller, own
        found.append(
            {
                "bits": bits,
                "uniform bytes": uniform.bytes,
                "plan bytes": best[0].bytes,
                "uniform forecast": uniform.forecast,
                "plan forecast": best[0].forecast,
                "uniform measured": error,
                "plan measured": best[1],
            }
        )
        print(found[-1], flush=True)
    return found


def main():
    """Measure everything, and write ``results.json`` and ``README.md``."""
    results = {"violations": violations(), "cases": CASES}
    for name in MODELS:
        loaded = load_model(folder(name))
        model = loaded.model.double()
        ids, *held_out = (
            torch.tensor([loaded.tokenizer.encode(text)]) for text in (TEXT, *HELD_OUT)
        )
        rng, replays, held = torch.Generator().manual_seed(0), [], True
        errors = {bits: {scheme: [] for scheme in SCHEMES} for bits in BITS}
        for layer in dsf.inspect(model, input_ids=ids):
            if not is_recurrent(layer.mixer.system()):
                continue
            for bits in BITS:
                found, replay, within = head_errors(layer, bits, rng)
                for scheme, (predicted, measured) in found.items():
                    errors[bits][scheme] += zip(predicted, measured, strict=True)
                replays.append(replay)
                held = held and within
        results[name] = {
            "tokens": ids.shape[1],
            "replay": max(replays),
            "bound holds": held,
            "within 2": {
                bits: {scheme: within_two(pairs) for scheme, pairs in each.items()}
                for bits, each in errors.items()
            },
            "feedback": {bits: feedback_pays(each) for bits, each in errors.items()},
            "plans": plans(model, ids, held_out),
        }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "README.md").write_text(page(results))


def page(results):
    """Return the page of the results."""
    lines = [
        "# With how many bits a state has to be stored",
        "",
        "Written by `python -m experiments.state_budget.run`. States are rounded after every "
        "token, with one scale for each head.",
        "",
        f"Bound exceeded in {results['violations']} of {results['cases']} drawn systems.",
    ]
    for name in MODELS:
        each = results[name]
        lines += [
            "",
            f"## {name}, {each['tokens']} tokens",
            "",
            f"- Linear replay of the roundings: {each['replay']:.0e} of the error apart from the "
            "run with a rounded state.",
            f"- The bound holds in every head: {'yes' if each['bound holds'] else 'no'}.",
            "",
            "Heads whose error is forecast within a factor of 2, and for how many feedback lowers "
            "the error of rounding to the nearest number (and of how many the forecast says so "
            "rightly):",
            "",
            f"| bits | {' | '.join(SCHEMES)} | feedback pays | said rightly |",
            "|---:|" + "---:|" * (len(SCHEMES) + 2),
        ]
        lines += [
            f"| {bits} | {' | '.join(f'{100 * share:.0f} %' for share in row.values())} | "
            f"{each['feedback'][bits]['pays']} of {each['feedback'][bits]['heads']} | "
            f"{each['feedback'][bits]['forecast rightly']} |"
            for bits, row in each["within 2"].items()
        ]
        lines += [
            "",
            f"The smallest plan whose measured error is at most that of uniform bits, on "
            f"{len(HELD_OUT)} texts that it was not made on. *Error*: root mean square change of "
            "the margin between the two top logits, over all tokens.",
            "",
            "| uniform bits | bytes | bytes of the plan | error | error of the plan |",
            "|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['bits']} | {row['uniform bytes']} | {row['plan bytes']} | "
            f"{row['uniform measured']:.2e} | {row['plan measured']:.2e} |"
            for row in each["plans"]
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
