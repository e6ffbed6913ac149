"""Associative recall: the announced runs, and results that need training at full size."""

from typing import Any

import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, out_of_reach
from dsf.claims.dynamical_systems.effective_state import HALF, softmax_map
from dsf.measures import hankel_singular_values

ANNOUNCED, SETTINGS, SETTINGS_LSTM, RATES = 1304, 320, 24, 4
FULL_RUNS = (
    "vocabulary 8192, up to 512 tokens and 64 pairs, width 512, 100,000 sequences for 64 epochs, "
    "four learning rates"
)


def runs_in_the_grids(rates_of_the_lstm: int = 1) -> Certificate:
    """Count the released grids, and look for the product that gives the announced number."""
    main = 5 * 4 * 4 * 4 * RATES
    lstm = 2 * 3 * 4 * RATES
    told = RATES * SETTINGS + rates_of_the_lstm * SETTINGS_LSTM
    return argued(
        f"the grids hold {main + lstm} runs; {ANNOUNCED} leaves out the rates of the quasi-LSTM",
        "grids are counted by multiplying",
        {
            "320 and 24 settings, as Appendix J says": (main, lstm)
            == (RATES * SETTINGS, RATES * SETTINGS_LSTM),
            f"4 x 320 + 24 = {ANNOUNCED}": told == ANNOUNCED,
            f"4 x (320 + 24) is not {ANNOUNCED}": main + lstm != ANNOUNCED,
        },
        method="counted",
        figures={
            "announced": ANNOUNCED,
            "five models, 4 tasks, 4 widths, 4 state sizes, 4 rates": main,
            "two quasi-LSTMs, 3 tasks, 4 widths, 4 rates": lstm,
            "runs": main + lstm,
        },
    )


def hours_of_the_sweeps(hours: int = 1) -> Certificate:
    """One hour for each sweep of four rates, or for each run."""
    sweeps = SETTINGS + SETTINGS_LSTM
    by_sweep, by_run = round(sweeps * hours / 24), round(ANNOUNCED * hours / 24)
    return argued(
        "at one hour for each sweep the runs take 14 days; 54 days are one hour for each run",
        "a day has 24 hours",
        {
            f"{sweeps} sweeps take 14 days": by_sweep == 14,
            f"{ANNOUNCED} runs take 54 days": by_run == 54,
        },
        method="counted",
        figures={"days by sweep": by_sweep, "days by run": by_run},
    )


def approaches_softmax() -> Certificate:
    """The least error of n states on drawn softmax maps, in place of trained models."""
    return out_of_reach(
        "linear attention approaches softmax attention on associative recall as n grows",
        f"training at {FULL_RUNS}",
        trend=_least_errors(),
    )


def _least_errors() -> dict[str, Any]:
    weights = softmax_map(4, 1.0)
    values = hankel_singular_values(weights, positions=[HALF - 1])[0]
    squares = values.square().flip(0).cumsum(0).flip(0)
    states = torch.tensor([4, 8, 16, 32])
    return {
        "states": states.tolist(),
        "least relative error of n states on one block": (
            (squares[states] / squares[0]).sqrt().tolist()
        ),
    }


def ranking() -> Certificate:
    """Needs every model trained at full size; nothing smaller orders them reliably."""
    return out_of_reach(
        "the quasi-LSTM with the reversed sigmoid outperforms the original one on three tasks",
        f"training both models at {FULL_RUNS}, and on two further benchmarks",
    )


def gap_in_perplexity() -> Certificate:
    """Three numbers of a table that was not read."""
    return out_of_reach(
        "better normalisation closes a quarter of the gap in perplexity between linear and softmax "
        "attention on WikiText-103",
        "three printed numbers of the paper's Table 1, whose body was not read",
    )


def long_range_order() -> Certificate:
    """Numbers of two tables that were not read."""
    return out_of_reach(
        "on the long-range arena normalised attention is ahead of linear and softmax attention and "
        "behind S6",
        "the printed averages of the paper's Tables 1 and 3, whose bodies were not read",
    )


CLAIMS = (
    Claim(
        id="DSF-10",
        table=Table.PAPER,
        statement=(
            "Linear attention approaches softmax attention on associative recall as n grows."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=approaches_softmax,
        quote=(
            "Figure 1 shows that with larger n linear attention converges to the performance of "
            "softmax attention, which achieves perfect accuracy throughout."
        ),
        place="Sec. 4.1",
        hypotheses=(
            "d = 512",
            "(L, pairs) = (256, 16), (512, 64)",
            "n up to 256",
            "best of four learning rates",
            "two layers",
        ),
        note=(
            "The trend given is a stand-in: the least error of any system of n states on a drawn "
            "softmax map falls with n. experiments/recall trains a reduced task."
        ),
    ),
    Claim(
        id="DSF-26",
        table=Table.SLIP,
        statement="The README announces 1304 runs; the grids hold 1376.",
        standing=Standing.AUTHORS,
        expected=Verdict.ARGUED,
        check=runs_in_the_grids,
        quote=(
            "Note that there are 1304 model/data configurations in this sweep, so it takes a "
            "while to run."
        ),
        place=(
            "IntelligentControlSystems/dsf-mqar@7c5aff8: zoology/experiments/dsf-arxiv/README.md"
        ),
        hypotheses=("App. J.1: 320 and 24 experiments, each with four learning rates",),
        note=(
            "4·320 + 24 = 1304 leaves out the learning rates of the 24 settings of the "
            "quasi-LSTM; 4·(320 + 24) = 1376."
        ),
    ),
    Claim(
        id="DSF-27",
        table=Table.PAPER,
        statement=(
            "On the benchmark tasks the quasi-LSTM with the reversed sigmoid outperforms the "
            "original one."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=ranking,
        quote=(
            "We note that the reversed sigmoid state transition outperforms the original state "
            "transition on all three benchmark tasks, …"
        ),
        place="Sec. 4.3",
        hypotheses=(
            "three benchmark tasks",
            (
                'further: "SSD outperforms S6", "normalized attention performs on par with '
                'S6" (App. L); "the exponential normalization (22) yields the best '
                'performance" (App. H)'
            ),
        ),
        note=(
            "experiments/recall trains a reduced task, where runs that do not leave the plateau "
            "of guessing among the shown values decide the order as much as the state does."
        ),
    ),
    Claim(
        id="DSF-34",
        table=Table.PAPER,
        statement=(
            "Better normalisation closes a quarter of the gap in perplexity between linear and "
            "softmax attention on WikiText-103."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=gap_in_perplexity,
        quote=(
            "… the results on WikiText-103 (Table 1) show that better normalization can close "
            "25% of the perplexity gap between linear attention and softmax attention."
        ),
        place="App. L",
        hypotheses=("WikiText-103, Table 1",),
        note="Decidable from three printed numbers.",
    ),
    Claim(
        id="DSF-35",
        table=Table.PAPER,
        statement=(
            "On the long-range arena normalised attention is ahead of linear and softmax "
            "attention and behind S6."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=long_range_order,
        quote=(
            "While normalized attention outperforms linear and softmax attention on the LRA, it "
            "performs significantly worse than S6."
        ),
        place="Sec. 4.2; Tables 1, 3",
        hypotheses=("long-range arena",),
        note="Decidable from the printed averages.",
    ),
    Claim(
        id="DSF-36",
        table=Table.SLIP,
        statement=(
            "54 days are one hour for each of 1304 runs; one hour for each sweep of learning "
            "rates, as the sentence says, makes 14 days."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=hours_of_the_sweeps,
        quote=(
            "For each learning rate sweep of the MQAR runs described in Appendix J we estimate "
            "the average runtime to be 1h, leading to a total unparallelized runtime of 54 days "
            "for all MQAR tasks."
        ),
        place="App. K",
        hypotheses=("a footnote there was not seen",),
    ),
)
