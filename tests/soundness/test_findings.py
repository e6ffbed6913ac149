"""Defects that were found in the evidence, each as a case that must stay mended.

Every case with a file goes through both checkers.
"""

import json
import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import nn

import dsf
from dsf import certify
from dsf.certificates import Verdict, checker
from dsf.properties.decided import findings
from dsf.systems.transition import Diagonal
from tests.soundness import second_checker
from tests.soundness.files import canonical, read

F64 = torch.float64
PROVED, REFUTED, UNKNOWN = Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN
EYE = torch.eye(3, dtype=F64)


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def forged(folder, make, change, *, reworded=True):
    """The path of an honest certificate that was changed, with a fitting sentence and identity."""
    make(folder / "honest")
    bent = read(folder / "honest")
    change(bent)
    claim = bent.content["claim"]
    if reworded and claim["name"] in checker.CLAIMS:
        form = checker.CLAIMS[claim["name"]].sentence
        try:
            claim["sentence"] = checker.sentence(claim["name"], claim["parameters"])
        except checker.Rejected:
            claim["sentence"] = form
    return bent.sealed().written(folder / "forged")


def refused(path):
    """Both checkers refuse, in words; those of the first one."""
    with pytest.raises(second_checker.Refused):
        second_checker.verdict(path)
    with pytest.raises(checker.Rejected) as error:
        checker.check(path)
    return str(error.value)


def parameters(**parts):
    return lambda bent: bent.content["claim"]["parameters"].update(parts)


BOTH = torch.tensor([[1.0, 0.0], [0.6, 0.4]], dtype=F64)
DECIMALS = {
    "share": (lambda f: certify.window_mass(BOTH, width=1, share=0.05, folder=f), "0.5"),
    "tolerance": (
        lambda f: certify.same_map(BOTH * 0, BOTH * 0 + 7.5, tolerance=50.0, folder=f),
        "10",
    ),
    "most": (
        lambda f: certify.decay(torch.tensor([5.0]).double(), width=1, most=500.0, folder=f),
        "1e0",
    ),
    "bound": (lambda f: certify.margin(normal(8, 3, seed=2), folder=f), "1.5"),
}


@pytest.mark.parametrize("name", DECIMALS)
@pytest.mark.parametrize(
    "written", [None, "0x1.8p-1", "0x1.80000000000000p-1", "1/2", "2/4", "-0x0.0p+0"]
)
def test_a_number_has_one_written_form(name, written, tmp_path):
    """F01: decimal text was read as hexadecimal."""
    make, decimal = DECIMALS[name]
    path = forged(tmp_path, make, parameters(**{name: written or decimal}))
    assert "only written form" in refused(path)


def test_a_fraction_is_said_as_what_it_is(tmp_path):
    """F02: 1/16 was printed as 1/10."""
    found = certify.row_sums(
        torch.tensor([[1.05]], dtype=F64), tolerance=Fraction(1, 16), folder=tmp_path / "a"
    )
    assert found.claim == "every row sums to 1.0 within 0.0625"
    other = certify.window_mass(
        torch.tensor([[1.0, 0], [0.9, 0.1]], dtype=F64),
        width=2, share=Fraction(16, 17), folder=tmp_path / "b",
    )  # fmt: skip
    assert "at least 16/17 of every row" in other.claim
    assert read(tmp_path / "b").content["claim"]["parameters"]["share"] == "16/17"


@pytest.mark.parametrize("sink", ["True", 1, None, "true", [], {}])
def test_a_switch_is_a_boolean(sink, tmp_path):
    """F03: a switch that was text counted as off in the check and as on in the sentence."""
    key = torch.randint(-64, 64, (14, 5), generator=torch.Generator().manual_seed(0)).double() / 8
    key[:, 0] = 1 - key[:, 1] + 2 * key[:, 3]
    path = forged(tmp_path, lambda f: certify.injective(key, folder=f), parameters(sink=sink))
    assert "neither true nor false" in refused(path)


def reshaped(shape):
    def change(bent):
        for file in bent.files.values():
            for entry in file.header.values():
                entry["shape"] = shape
        for entry in bent.content["subject"]:
            entry["shape"] = shape

    return change


def proved(bent):
    bent.content.update(verdict="PROVED", witness=None)


MAPS = {
    "nonnegative": lambda m, f: certify.nonnegative(m, folder=f),
    "causal": lambda m, f: certify.causal(m, folder=f),
    "row_sums": lambda m, f: certify.row_sums(m, folder=f),
    "window_mass": lambda m, f: certify.window_mass(m, width=1, share=1.0, folder=f),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(
    "shape", [[-4, -4], [4, 4, 1, -1, -1], [], [16], [0, 0], [True, 16], [1] * 9]
)
def test_shapes_are_positive_and_of_the_rank_of_the_claim(name, shape, tmp_path):
    """F04: a map of shape [-4, -4] had no rows, so everything was proved of it."""

    def change(bent):
        proved(bent)
        reshaped(shape)(bent)

    path = forged(tmp_path, lambda f: MAPS[name](torch.full((4, 4), -1.0, dtype=F64), f), change)
    refused(path)


def test_rectangles_are_no_square_map(tmp_path):
    """F05: two maps of 2 x 4 passed as one of 4 x 4."""
    path = forged(
        tmp_path, lambda f: MAPS["causal"](torch.ones(4, 4).double().tril(), f), reshaped([2, 2, 4])
    )
    assert "square" in refused(path)


def test_heads_are_no_list_of_keys(tmp_path):
    """F05: the keys of four heads passed as those of one."""
    path = forged(
        tmp_path, lambda f: certify.injective(normal(8, 3), folder=f), reshaped([4, 2, 3])
    )
    assert "must have 2 axes" in refused(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.content.update(observed="0x0.0p+0"),
        lambda b: b.content.update(bound={"value": "0x0.0p+0"}),
        lambda b: b.content.update(method="formally verified"),
        lambda b: b.content.update(provenance={"model": "another one"}),
        lambda b: b.content["claim"]["parameters"].update(domain="every input of the model"),
        lambda b: b.content["evidence"].update(proof="by hand"),
        lambda b: b.content["claim"].update(note="x"),
        lambda b: b.content["unchecked"].update(proof="x"),
        lambda b: b.content["subject"][0].update(note="x"),
        lambda b: b.content.update(witness={}),
    ],
)
def test_a_field_is_checked_or_stands_under_unchecked(change, tmp_path):
    """F06: bound, observed, method, provenance and extra parameters were free text."""
    path = forged(tmp_path, lambda f: certify.nonnegative(EYE, folder=f), change)
    assert re.search("exactly the fields|has a witness", refused(path))


@pytest.mark.parametrize("energy", ["0x0.0p+0", "0x1.8000000000000p+3", 9, None])
def test_the_energy_of_two_maps_is_checked(energy, tmp_path):
    """F06: the witness of two different maps was free text."""
    path = forged(
        tmp_path,
        lambda f: certify.same_map(EYE, EYE + 1, tolerance=0.5, folder=f),
        lambda b: b.content.update(witness={"energy": energy}),
    )
    refused(path)


def test_what_is_not_checked_is_printed_as_such(tmp_path, capsys):
    where = certify.certificate.Destination(tmp_path, {"model": "a name"})
    certify.nonnegative(EYE, folder=where)
    (path,) = (tmp_path / "certificates").iterdir()
    assert checker.main([str(path)]) == 0
    assert "stated and not checked: model a name" in capsys.readouterr().out


@pytest.mark.parametrize("verdict", ["UNKNOWN", "HOLDS_NUMERICALLY", "ARGUED", "proved", None, 1])
def test_only_proved_and_refuted_are_accepted(verdict, tmp_path):
    """F07: a refutation that was turned to UNKNOWN was accepted with exit status 0."""
    path = forged(
        tmp_path,
        lambda f: certify.nonnegative(-EYE, folder=f),
        lambda b: b.content.update(verdict=verdict, witness=None),
    )
    assert "neither PROVED nor REFUTED" in refused(path)
    assert checker.main([str(path)]) == second_checker.main([str(path)]) == 1
    assert checker.main([]) == second_checker.main([]) == 1


@pytest.mark.parametrize("module", [checker, second_checker])
@pytest.mark.parametrize("text", ["\x1b[2K\raccepted PROVED x\n\x1b[8m", "\ud800", "é\n"])
def test_text_of_a_file_reaches_the_terminal_escaped(module, text, tmp_path):
    """F09: control characters overwrote a rejection by an accepted line; surrogates raised."""
    for name in ("verdict", "level", "witness", "format"):
        path = forged(
            tmp_path,
            lambda f: certify.nonnegative(EYE, folder=f),
            lambda b, name=name: b.content.update({name: text}),
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", module.__file__, str(path)],
            capture_output=True, text=True, check=False, encoding="utf-8",
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.count("\n") == 1
        assert done.stdout.strip("\n").isprintable()
        assert done.stdout.startswith(("REJECTED", "REFUSED"))


@pytest.mark.parametrize("module", [checker, second_checker])
def test_only_regular_files_are_opened_and_a_missing_one_is_a_line(module, tmp_path, capsys):
    """F10: a FIFO blocked, a link to an endless file filled the memory, a missing file raised."""
    certify.nonnegative(EYE, folder=tmp_path)
    (path,) = (tmp_path / "certificates").iterdir()
    fifo, link, folder = (path.with_name(f"{name}.json") for name in ("fifo", "link", "folder"))
    os.mkfifo(fifo)
    link.symlink_to("/dev/zero")
    folder.mkdir()
    sparse = path.with_name("sparse.json")
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    names = [str(p) for p in (fifo, link, folder, sparse, path.with_name("none.json"), path)]
    assert module.main([*names, "/dev/zero", "a\0b"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] in ("REJECTED", "REFUSED") for line in lines] == [True] * 5 + [
        False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["fifo", "link", "sparse", "folder"])
def test_tensors_are_regular_files_of_bounded_size(kind, tmp_path):
    """F10: a sparse file of tensors was read whole."""
    path = forged(tmp_path, lambda f: certify.nonnegative(EYE, folder=f), lambda _: None)
    tensors = tmp_path / "forged" / json.loads(path.read_text())["subject"][0]["file"]
    tensors.unlink()
    if kind == "fifo":
        os.mkfifo(tensors)
    elif kind == "link":
        tensors.symlink_to("/dev/zero")
    elif kind == "folder":
        tensors.mkdir()
    else:
        with tensors.open("wb") as file:
            file.truncate(1 << 40)
    refused(path)


@pytest.mark.parametrize("digits", [4001, 5_000, 100_000])
def test_integers_have_a_bounded_length(digits, tmp_path):
    """F10: a modulus of 100,000 digits took 16 seconds."""
    key = torch.cat([normal(9, 2), torch.zeros(9, 1, dtype=F64)], -1)
    path = forged(tmp_path, lambda f: certify.injective(key, folder=f), lambda _: None)
    text = path.read_text().replace('"row":', f'"row": {"9" * digits},\n  "rows":')
    path.write_text(text)
    refused(path)


def headers():
    one = {"dtype": "F64", "shape": [2, 2], "data_offsets": [0, 32]}
    two = {"dtype": "F64", "shape": [2, 2], "data_offsets": [32, 64]}
    a, b = json.dumps(one), json.dumps(two)
    yield "twice", f'{{"map": {b}, "map": {a}}}', 64
    yield "rest", f'{{"map": {a}}}', 64
    yield "gap", f'{{"map": {b}}}', 64
    yield "overlap", f'{{"map": {a}, "other": {a}}}', 32
    yield "metadata", f'{{"__metadata__": {{"a": "b"}}, "map": {a}}}', 32
    yield "extra", '{"map": ' + json.dumps({**one, "note": 1}) + "}", 32
    yield "negative", '{"map": ' + json.dumps({**one, "data_offsets": [-32, 0]}) + "}", 32
    yield "points", '{"map": ' + json.dumps({**one, "data_offsets": [0.0, 32.0]}) + "}", 32
    yield "space", f' {{"map": {a}}}', 32
    yield "list", f"[{a}]", 32
    yield "nothing", "{}", 0
    yield "bool", '{"map": ' + json.dumps({**one, "shape": [True, 4]}) + "}", 32


HEADERS = {name: (text, size) for name, text, size in headers()}


@pytest.mark.parametrize("name", HEADERS)
def test_the_rules_of_safetensors_hold_in_full(name, tmp_path):
    """F11: a header with a name twice was accepted, of which safetensors reads another tensor."""
    text, size = HEADERS[name]
    body = b"".join([torch.ones(2, 2, dtype=F64).numpy().tobytes(), bytes(32)])[:size]
    raw = len(text).to_bytes(8, "little") + text.encode() + body

    def change(bent):
        (file,) = bent.files.values()
        file.raw = raw

    square = torch.ones(2, 2, dtype=F64)
    path = forged(tmp_path, lambda f: certify.nonnegative(square, folder=f), change)
    refused(path)
    with pytest.raises(checker.Rejected):
        checker.stored_tensors(raw)
    with pytest.raises(second_checker.Refused):
        second_checker.tensors_of(raw)
    if name not in ("metadata", "nothing", "extra", "space"):  # only stricter than safetensors
        with pytest.raises(SafetensorError):
            load(raw)


@pytest.mark.parametrize("name", [r"\u006dap", r"m\u0061p", r"\u006Dap"])
def test_a_header_may_escape_any_character(name):
    """Headers of tensors are JSON of other libraries; only certificates have one written form."""
    text = f'{{"{name}": {{"dtype": "F64", "shape": [1, 1], "data_offsets": [0, 8]}}}}'
    raw = len(text).to_bytes(8, "little") + text.encode() + bytes(8)
    assert (
        {*checker.stored_tensors(raw)} == {*second_checker.tensors_of(raw)} == {*json.loads(text)}
    )


def test_files_are_named_by_content_and_never_overwritten(tmp_path):
    """F12: after one file was removed the next one was written over another one."""
    certify.nonnegative(EYE, folder=tmp_path)
    certify.nonnegative(-EYE, folder=tmp_path)
    names = {path.name: path.read_text() for path in (tmp_path / "certificates").iterdir()}
    gone = sorted(names)[0]
    (tmp_path / "certificates" / gone).unlink()
    certify.nonnegative(EYE + 1, folder=tmp_path)
    left = {path.name: path.read_text() for path in (tmp_path / "certificates").iterdir()}
    assert len(left) == 2
    assert all(left[name] == text for name, text in names.items() if name != gone)


def test_old_files_are_refused_with_advice(tmp_path):
    path = forged(
        tmp_path,
        lambda f: certify.nonnegative(EYE, folder=f),
        lambda b: b.content.update(format_version=1),
    )
    assert "issued anew" in refused(path)


def test_equivalent_speaks_of_maps_as_they_are_formed():
    """S01: PROVED with tolerance 0 although the exact maps differ by one."""
    one = Diagonal(torch.ones(1, 3, dtype=F64))
    read_all = torch.ones(1, 1, 3, dtype=F64)
    write = torch.tensor([[[2.0**53], [1.0], [-(2.0**53)]]], dtype=F64)
    first = dsf.System(one, write, read_all)
    second = dsf.System(one, torch.zeros(1, 3, 1, dtype=F64), read_all)
    found = certify.equivalent(first, second, tolerance=0.0)
    assert "of the maps as they are formed in floating point" in str(found)


def test_equivalent_looks_at_initial_states():
    """S01: two systems with other initial states were PROVED equivalent."""
    ones = torch.ones(4, 1, dtype=F64)
    parts = Diagonal(ones), ones.unsqueeze(-1), ones.unsqueeze(-2)
    start = torch.full((1, 2), 5.0, dtype=F64)
    with_start, without = dsf.System(*parts, initial=start), dsf.System(*parts)
    found = certify.equivalent(with_start, without, tolerance=0.0)
    assert found.verdict is REFUTED
    assert math.isclose(found.observed, math.sqrt(4 * 2 * 25))
    for same in ((with_start, with_start), (without, without)):
        assert certify.equivalent(*same, tolerance=0.0).verdict is PROVED
    zero = dsf.System(*parts, initial=0 * start[:, :1])
    assert certify.equivalent(zero, without, tolerance=0.0).verdict is PROVED


def test_a_tiny_difference_is_observed():
    """S01: REFUTED with an observed distance of zero."""
    tiny = torch.full((2, 2), 1e-200, dtype=F64)
    found = certify.same_map(tiny, 0 * tiny, tolerance=0.0)
    assert (found.verdict, found.observed) == (REFUTED, pytest.approx(2e-200, rel=1e-12))
    huge = torch.full((2, 2), 1e200, dtype=F64)
    assert certify.same_map(huge, 0 * huge, tolerance=0.0).observed == pytest.approx(
        2e200, rel=1e-12
    )


class Masked(nn.Module):
    """Two heads of width four, with an additive mask."""

    def __init__(self, fill):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.fill = fill

    def forward(self, x, mask):
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) / 2 + (1 - mask)[:, None, None, :] * self.fill
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, 8))


class Model(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x, mask):
        return self.attn(x, mask)


@pytest.mark.parametrize("fill", [-10000.0, -1e9, float(torch.finfo(torch.float32).min)])
@pytest.mark.parametrize("hidden", [9, 4, 0])
def test_a_finite_mask_hides_keys(fill, hidden, tmp_path):
    """S02: nine of twelve keys were hidden by -10000, and injective and margin were PROVED."""
    torch.manual_seed(0)
    model = Model(Masked(fill)).eval()
    mask = torch.ones(1, 12)
    mask[:, :hidden] = 0
    inspection = dsf.inspect(model, torch.randn(1, 12, 8), mask)
    verdicts = {}
    for layer in inspection:
        for found in findings(layer, folder=tmp_path):
            verdicts.setdefault(found.property, []).append(found.certificate)
    for found in verdicts["injective"]:
        assert found.verdict is (Verdict.NOT_APPLICABLE if hidden == 9 else PROVED)
    for found in verdicts["margin"]:
        assert found.verdict is (Verdict.UNKNOWN if hidden else PROVED)
    first = verdicts["injective"][0]
    if hidden == 9:
        assert "no row shows more than 3 keys, but 5 are needed" in str(first)
    elif hidden:
        content = json.loads((tmp_path / first.file).read_text())
        mask = load_file(tmp_path / content["subject"][1]["file"])["mask"]
        assert not mask[-1, :hidden].any()
        assert mask[-1, hidden:].all()


def test_a_whole_transition_is_decided_with_its_decay():
    """S03: PROVED for transitions that grow 54-fold, since the decay was not looked at."""
    mixer = dsf.mixers.GatedDeltaNet.draw(torch.Generator().manual_seed(0), steps=8)
    key = mixer.key / mixer.key.norm(dim=-1, keepdim=True)
    rate = mixer.rate * 0 + 0.01
    growing = certify.nonexpansive(key[0], rate[0], torch.full_like(rate[0], 0.5))
    assert growing.verdict is REFUTED
    assert growing.observed == pytest.approx(math.exp(0.5))
    assert certify.nonexpansive(key[0], rate[0], -rate[0]).verdict is PROVED
    long = certify.nonexpansive(3 * key[0], rate[0] * 100, rate[0] * 0 - 5.0)
    assert long.verdict is PROVED  # e^-5 |1 - 9|
    assert certify.nonexpansive(3 * key[0], rate[0] * 100).verdict is REFUTED
    thin = certify.nonexpansive(key[0, :, :1] * 0 + 1, rate[0] * 50, rate[0] * 0 + 0.5)
    assert thin.verdict is PROVED  # of width one: e^0.5 |1 - 0.5|


@pytest.mark.parametrize("tie", [0.0, -(2.0**-60), 2.0**-60])
def test_a_decay_of_one_is_a_tie_that_is_decided(tie):
    key = torch.zeros(2, 3, dtype=F64)
    logs = torch.full((2,), tie, dtype=F64)
    found = certify.nonexpansive(key, torch.ones(2, dtype=F64), logs)
    assert found.verdict is (REFUTED if tie > 0 else PROVED)


def test_a_window_is_said_in_words_and_a_box_by_its_range():
    """S05: keys 0 to 3 were printed as [0, 4], and the box was not named."""
    key = normal(12, 4)
    box = (-0.01 * torch.ones(4, dtype=F64), 0.02 * torch.ones(4, dtype=F64))
    found = certify.locality(key, box, window=(0, 4), share=0.05)
    assert "lies on the keys from 0 up to, but not including, 4" in found.claim
    assert "coordinates lie between -0.01 and 0.02" in found.claim
    assert str(found).startswith("PROVED for every point of the stored box")


@pytest.mark.parametrize(
    "range", [["-0x1.0000000000000p+0", "0x1.0000000000000p+0"], ["0x0.0p+0"], 3]
)
def test_the_range_of_a_box_is_checked(range, tmp_path):
    key = normal(12, 4)
    box = (-0.01 * torch.ones(4, dtype=F64), 0.02 * torch.ones(4, dtype=F64))
    path = forged(
        tmp_path,
        lambda f: certify.locality(key, box, window=(0, 4), share=0.05, folder=f),
        parameters(box=range),
    )
    refused(path)


def test_witnesses_name_sample_head_and_token():
    """S05: a witness was the number of a row of all samples and heads together."""
    map = torch.rand(2, 2, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    map[1, 0, 2, 1] = -1
    assert certify.nonnegative(map).witness == {"batch": [1, 0], "row": 2}
    logs = torch.tensor([[-1.0, -1, -1], [-1, 0.5, -1]], dtype=F64)
    assert certify.decay(logs, width=1, most=0.9).witness == {"batch": [1], "token": 1}


def test_an_uncertainty_is_not_negative_and_injective_is_about_exact_arithmetic():
    """S05: a negative uncertainty proved everything; large queries share their float rows."""
    with pytest.raises(ValueError, match="at least 0"):
        certify.injective(normal(9, 2), level=certify.Level.REAL, uncertainty=-1.0)
    assert "in exact arithmetic" in certify.injective(normal(9, 2)).claim


def test_a_certificate_built_by_hand_does_not_look_accepted():
    """S06: PROVED by hand looked like PROVED by the checker."""
    parts = {"claim": "P = NP", "level": certify.Level.DATA, "method": "none"}
    with pytest.raises(ValueError, match="identity"):
        certify.Certificate(verdict=PROVED, **parts)
    by_hand = certify.Certificate(verdict=REFUTED, witness={"a": 1}, **parts)
    assert str(by_hand).startswith("REFUTED, not seen by the checker (data)")
    accepted = certify.nonnegative(-EYE)
    assert str(accepted).startswith("REFUTED of the stored numbers (data)")


@pytest.mark.parametrize("feature_map", ["identity", "relu", "elu_plus_one"])
@pytest.mark.parametrize("row", [100, -5, 4, -1])
def test_a_row_outside_the_keys_is_an_error(feature_map, row, tmp_path):
    """S07: row 100 of four keys was a witness."""
    key = normal(4, 3)
    with pytest.raises(ValueError, match="between 0 and 3"):
        certify.linear_injective(key, feature_map=feature_map, row=row)
    path = forged(
        tmp_path,
        lambda f: certify.linear_injective(key, feature_map=feature_map, folder=f),
        lambda b: b.content["witness"].update(row=row),
    )
    assert "lies outside" in refused(path)


def test_the_canonical_text_is_the_only_one(tmp_path):
    """Brothers of F01: spacing, order of names, escapes and ends of lines."""
    path = forged(tmp_path, lambda f: certify.nonnegative(EYE, folder=f), lambda _: None)
    text = path.read_text()
    assert text == canonical(json.loads(text))
    for other in (
        text[:-1], text + "\n", text.replace("\n ", "\n  ", 1), json.dumps(json.loads(text)),
        text.replace("nonnegative", "n\\u006fnnegative", 1), text.replace("\n", "\r\n"),
        "\ufeff" + text, text.replace('"level"', '"LEVEL"'), "", "[]", "null", "\n",
    ):  # fmt: skip
        path.write_text(other)
        refused(path)


def test_deep_nesting_is_refused_by_both(tmp_path):
    key, box = normal(12, 4), (-torch.ones(4, dtype=F64) / 64, torch.ones(4, dtype=F64) / 64)

    def nested(depth):
        def change(bent):
            tree = bent.content["evidence"]["tree"]
            for _ in range(depth):
                tree = {"axis": 0, "low": tree, "high": bent.content["evidence"]["tree"]}
            bent.content["evidence"]["tree"] = tree

        return change

    make = lambda f: certify.locality(key, box, window=(0, 4), share=0.05, folder=f)  # noqa: E731
    fine = forged(tmp_path / "a", make, nested(150))
    assert checker.check(fine) == second_checker.verdict(fine) == "PROVED"
    deep = forged(tmp_path / "b", make, nested(220))
    assert "deep" in refused(deep)


def test_a_determinant_that_every_prime_divides_proves_nothing():
    """It is not zero, but nobody has to compute it exactly."""
    primes = [2**61 - 1, 2**89 - 1]
    matrix = [[0] * 4 for _ in range(4)]
    for k, prime in enumerate(primes):
        matrix[2 * k][2 * k : 2 * k + 2] = [prime + 1, 1]
        matrix[2 * k + 1][2 * k : 2 * k + 2] = [1, 1]
    assert not checker.nonsingular(matrix)
    assert not second_checker.invertible(matrix)
    key = torch.tensor(matrix, dtype=F64)
    assert certify.injective(key, sink=True, first_row=3).verdict is Verdict.UNKNOWN


def test_exact_ties_are_decided_by_both(tmp_path):
    """e^0 is one: a decay of one, and a window of equal keys."""
    found = certify.decay(torch.zeros(1, 3, dtype=F64), width=2, most=1.0, folder=tmp_path)
    assert found.verdict is PROVED
    assert second_checker.verdict(tmp_path / found.file) == "PROVED"


@pytest.mark.parametrize("value", [-1e300, -5e4, 5e4, 1e300])
def test_huge_logarithms_are_decided(value):
    logs = torch.full((1, 3), value, dtype=F64)
    found = certify.decay(logs, width=2, most=0.5)
    assert found.verdict is (PROVED if value < 0 else REFUTED)


def test_a_checker_reads_nothing_but_the_standard_library(tmp_path):
    certify.locality(
        normal(9, 2), (-torch.ones(2).double() / 9, torch.ones(2).double() / 9),
        window=(0, 3), share=0.05, folder=tmp_path,
    )  # fmt: skip
    (path,) = (tmp_path / "certificates").iterdir()
    for module in (checker, second_checker):
        done = subprocess.run(
            [sys.executable, "-I", "-S", module.__file__, str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("accepted PROVED")


def test_the_two_checkers_share_no_code():
    """No import of the other, and no line of more than a few words in common."""
    texts = [
        {line.strip() for line in Path(module.__file__).read_text().splitlines()}
        for module in (checker, second_checker)
    ]
    shared = {line for line in texts[0] & texts[1] if len(line.split()) > 7}
    assert {line for line in shared if not line.startswith('"')} == set()
