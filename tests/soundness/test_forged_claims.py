"""For every claim: an honest certificate, bent into a false one with a fitting identity."""

import json
import tempfile
from pathlib import Path

import pytest
import torch

import dsf
from dsf import certify
from dsf.certificates import checker
from tests.soundness.files import stored_layer

RNG = torch.Generator().manual_seed(5)
KEY = torch.randn(12, 4, generator=RNG, dtype=torch.float64)
DEPENDENT = torch.cat([KEY[:, :3], 2 * KEY[:, :1]], dim=-1)
MAP = torch.softmax(torch.randn(5, 5, generator=RNG, dtype=torch.float64), dim=-1).tril()
MAP = MAP / MAP.sum(dim=-1, keepdim=True)
BENT = MAP.clone()
BENT[3, 1] = -1e-9
LOGS = -torch.rand(2, 9, generator=RNG, dtype=torch.float64) - 0.1
RATE = torch.full((12,), 0.01, dtype=torch.float64)
BOX = (-torch.ones(4).double(), torch.ones(4).double())
SMALLEST = float(torch.linalg.svdvals(torch.cat([KEY, torch.ones(12, 1).double()], -1))[-1])
ONE = torch.tensor(1.0, dtype=torch.float64)
PORTS = torch.ones(3, 1, 1, dtype=torch.float64)
SYSTEM = dsf.System(dsf.systems.transition.Diagonal(PORTS[..., 0] / 2), PORTS, PORTS)
TURNED = dsf.System(dsf.systems.transition.Diagonal(PORTS[..., 0] / 2), PORTS, -PORTS)

TURNING = dsf.System(
    dsf.systems.transition.Dense(torch.tensor([[0.6, 0.2], [-0.2, 0.6]]).double().expand(9, 2, 2)),
    PORTS.new_ones(9, 2, 1),
    PORTS.new_ones(9, 1, 2),
)


def verdict(to):
    return lambda content: content.update(verdict=to, witness=None)


def witness(**parts):
    return lambda content: content["witness"].update(parts)


def stated(**parts):
    def change(content):
        claim = content["claim"]
        claim["parameters"].update(parts)
        claim["sentence"] = checker.sentence(claim["name"], claim["parameters"])

    return change


def bound(to):
    return stated(bound=to.hex())


def refuted(**parts):
    return lambda content: content.update(verdict="REFUTED", witness=parts)


CASES = {
    "another direction": (
        lambda f: certify.injective(DEPENDENT, folder=f),
        witness(null=[1, 0, 0, 1, 0]),
        "moves the score",
    ),
    "a direction that is none": (
        lambda f: certify.injective(DEPENDENT, folder=f),
        witness(null=[0, 0, 0, 0, 0]),
        "direction of the query",
    ),
    "a direction with a constant under a sink": (
        lambda f: certify.injective(DEPENDENT, sink=True, folder=f),
        witness(null=[2, 0, 0, -1, 1]),
        "direction of the query",
    ),
    "another direction under a mask": (
        lambda f: certify.injective(
            DEPENDENT, shown=torch.ones(9, len(DEPENDENT)).bool(), folder=f
        ),
        witness(null=[1, 0, 0, 1, 0]),
        "moves the score",
    ),
    "a row before the claim": (
        lambda f: certify.injective(DEPENDENT, first_row=8, folder=f),
        witness(row=5),
        "outside the rows",
    ),
    "a larger margin": (lambda f: certify.margin(KEY, folder=f), bound(50.0), "residual"),
    "a margin a hair above": (
        lambda f: certify.margin(KEY, folder=f),
        bound(SMALLEST * (1 + 1e-9)),
        "residual",
    ),
    "a negative margin": (lambda f: certify.margin(KEY, folder=f), bound(-1.0), "residual"),
    "queries that share nothing": (
        lambda f: certify.linear_injective(KEY, feature_map="identity", folder=f),
        witness(other=[(1.0).hex(), (1.0).hex(), "0x0.0p+0", "0x0.0p+0"]),
        "not proportional|vanish",
    ),
    "one query twice": (
        lambda f: certify.linear_injective(KEY, feature_map="relu", folder=f),
        lambda c: c["witness"].update(other=c["witness"]["query"]),
        "two different",
    ),
    "queries below zero for elu": (
        lambda f: certify.linear_injective(KEY, feature_map="elu_plus_one", folder=f),
        witness(query=[(-1.0).hex()] * 4, other=[(-2.0).hex()] * 4),
        "not rational",
    ),
    "a sum that is not reached": (
        lambda f: certify.row_sums(MAP, tolerance=1e-12, folder=f),
        stated(target=(1 + 1e-9).hex()),
        "breaks the claim",
    ),
    "a row that keeps its sum": (
        lambda f: certify.row_sums(MAP, tolerance=1e-12, folder=f),
        refuted(batch=[], row=2),
        "keeps the claim",
    ),
    "a negative weight passed over": (
        lambda f: certify.nonnegative(BENT, folder=f),
        verdict("PROVED"),
        "breaks the claim",
    ),
    "a look ahead passed over": (
        lambda f: certify.causal(MAP.mT.contiguous(), folder=f),
        verdict("PROVED"),
        "breaks the claim",
    ),
    "a share that is not held": (
        lambda f: certify.window_mass(MAP, width=2, share=0.0, folder=f),
        stated(share=(0.999).hex()),
        "breaks the claim",
    ),
    "a narrower window": (
        lambda f: certify.window_mass(MAP, width=5, share=1.0, folder=f),
        stated(width=1),
        "breaks the claim",
    ),
    "maps closer than they are": (
        lambda f: certify.same_map(MAP, BENT, tolerance=1.0, folder=f),
        stated(tolerance=(1e-12).hex()),
        "gives REFUTED",
    ),
    "an expanding step passed over": (
        lambda f: certify.nonexpansive(KEY, 100 * RATE + 2, folder=f),
        verdict("PROVED"),
        "not shown to keep",
    ),
    "a negative rate passed over": (
        lambda f: certify.nonexpansive(KEY, -RATE, folder=f),
        verdict("PROVED"),
        "not shown to keep",
    ),
    "a decay that is slow in the middle": (
        lambda f: certify.decay(
            torch.tensor([[-1.0, -1.0, 0.0, -1.0, -1.0]]).double(), width=1, most=0.5, folder=f
        ),
        verdict("PROVED"),
        "not shown to keep",
    ),
    "a faster decay": (
        lambda f: certify.decay(LOGS, width=3, most=0.99, folder=f),
        stated(most=(1e-3).hex()),
        "not shown to keep",
    ),
    "a decay over fewer tokens": (
        lambda f: certify.decay(
            LOGS, width=3, most=float(LOGS.unfold(-1, 3, 1).sum(-1).max().exp()) * 1.01, folder=f
        ),
        stated(width=1),
        "not shown to keep",
    ),
    "products that are shorter than they are": (
        lambda f: certify.horizon(TURNING, 0.5, folder=f),
        stated(most=(0.01).hex()),
        "not shown to keep",
    ),
    "products of fewer tokens": (
        lambda f: certify.horizon(TURNING, 0.1, folder=f),
        stated(width=1),
        "not shown to keep",
    ),
    "a growing decay passed over": (
        lambda f: certify.nonexpansive(KEY, RATE, 0 * RATE + 2.0**-40, folder=f),
        verdict("PROVED"),
        "not shown to keep",
    ),
    "a growing decay that is small enough": (
        lambda f: certify.nonexpansive(KEY, RATE, -RATE, folder=f),
        refuted(token=3),
        "not shown to break",
    ),
    "a distance above the margin": (
        lambda f: certify.injective(KEY, level=certify.Level.REAL, uncertainty=0.1, folder=f),
        stated(distance=(SMALLEST * (1 + 1e-9)).hex()),
        "above the distance",
    ),
    "negative weights of a system passed over": (
        lambda f: certify.nonnegative(TURNED, folder=f),
        verdict("PROVED"),
        "not shown to be at least zero",
    ),
    "an entry of a system that is not negative": (
        lambda f: certify.nonnegative(SYSTEM, folder=f),
        refuted(row=1, column=0),
        "not shown to be below zero",
    ),
    "a smaller tolerance for the rows of a system": (
        lambda f: certify.row_sums(SYSTEM, target=1.5, tolerance=0.5, folder=f),
        stated(tolerance=(0.25).hex()),
        "a row is not shown to keep the claim",
    ),
    "two systems that differ more": (
        lambda f: certify.equivalent(
            SYSTEM, TURNED, tolerance=9.0, level=certify.Level.REAL, folder=f
        ),
        stated(tolerance=(1.0).hex()),
        "states PROVED, but",
    ),
    "a faster decay over a box": (
        lambda f: certify.decay_box(KEY[0], ONE, ONE, BOX, width=2, most=0.999, folder=f),
        stated(most=(1e-6).hex()),
        "above the stated",
    ),
}


def layer(kind):
    """A small stored layer, the same at every call."""
    rng = torch.Generator().manual_seed(2)
    return stored_layer(
        kind,
        lambda *size: torch.randn(*size, generator=rng, dtype=torch.float64),
        lambda low, _high: low,
    )


def turned(content):
    """The other verdict, at the first weight where a weight is asked for."""
    if content["verdict"] == "REFUTED":
        content.update(verdict="PROVED", witness=None)
    else:
        content.update(verdict="REFUTED", witness={"column": 0, "row": 0})


def claims_of(kind):
    """Claims about one kind of stored layer, as they are bent, and what is said of that."""
    scan = kind != "softmax_attention"
    yield (
        f"{kind}: the other sign",
        lambda f: certify.nonnegative(layer(kind), folder=f),
        turned,
        "below zero" if not scan else "not shown to be at least zero|below zero",
    )
    yield (
        f"{kind}: another sum",
        lambda f: certify.row_sums(layer(kind), tolerance=2.0**-100, folder=f),
        turned if scan else stated(target=(2.0).hex()),
        "a row is not shown to keep the claim",
    )


CASES |= {name: rest for kind in checker.LAYERS for name, *rest in claims_of(kind)}


@pytest.mark.parametrize("case", CASES)
def test_what_is_bent_is_rejected(case, tmp_path):
    make, change, words = CASES[case]
    make(tmp_path)
    (path,) = (tmp_path / "certificates").glob("*.json")
    honest = path.read_text()
    checker.check(path)
    content = json.loads(honest)
    change(content)
    content["identity"] = checker.identity(content)
    assert checker.canonical(content) != honest
    path.write_text(checker.canonical(content))
    with pytest.raises(checker.Rejected, match=words):
        checker.check(path)


def test_every_claim_is_bent_at_least_once():
    bent = {"locality"}  # in test_tampered
    for make, _, _ in CASES.values():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            (path,) = Path(folder).glob("certificates/*.json")
            bent.add(path.name.rsplit("-", 1)[0])
    assert bent == set(checker.CLAIMS)
