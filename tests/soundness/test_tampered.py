"""Files that were changed after they were written."""

import json
import random
import subprocess
import sys

import pytest
import torch

from dsf import certify
from dsf.certificates import Verdict, checker


@pytest.fixture
def run(tmp_path):
    """A run folder with one certificate of rank and one of locality."""
    rng = torch.Generator().manual_seed(0)
    key = torch.randn(12, 4, generator=rng)
    certify.injective(key, folder=tmp_path)
    box = (-0.02 * torch.ones(4).double(), 0.02 * torch.ones(4).double())
    certify.locality(key, box, window=(0, 4), share=0.2, folder=tmp_path)
    return tmp_path


def files(run):
    return sorted((run / "certificates").glob("*.json"))


def tensors_of(path):
    """The file of tensors that a certificate speaks about."""
    return path.parent.parent / json.loads(path.read_text())["subject"][0]["file"]


def rewritten(path, change):
    """The certificate with ``change`` applied and a fitting identity, as a forger would."""
    content = json.loads(path.read_text())
    change(content)
    content["identity"] = checker.identity(content)
    path.write_text(checker.canonical(content))
    return path


def test_the_checker_stands_alone(run):
    done = subprocess.run(
        [sys.executable, "-I", "-S", checker.__file__, *map(str, files(run))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count("accepted PROVED") == 2
    assert "for every query of the stored box" in done.stdout


def test_no_byte_of_a_certificate_can_be_flipped(run):
    chance = random.Random(0)
    path = files(run)[0]
    original = path.read_bytes()
    for place in range(len(original)):
        flipped = bytearray(original)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(flipped))
        with pytest.raises(checker.Rejected):
            checker.check(path)
    path.write_bytes(original)
    assert checker.check(path) == "PROVED"


def test_no_bit_of_the_data_can_be_flipped(run):
    path = tensors_of(files(run)[0])
    original = path.read_bytes()
    start = 8 + int.from_bytes(original[:8], "little")
    for place in range(start, len(original)):
        path.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        with pytest.raises(checker.Rejected, match="other bytes"):
            checker.check(files(run)[0])


def set_in(*names, to):
    def change(content):
        for name in names[:-1]:
            content = content[name]
        content[names[-1]] = to

    return change


def stated(name, to):
    """Another parameter, and the sentence that goes with it."""

    def change(content):
        content["claim"]["parameters"][name] = to
        claim = content["claim"]
        claim["sentence"] = checker.sentence(claim["name"], claim["parameters"])

    return change


RANK = [
    (set_in("evidence", "rows", to=[0, 1, 2, 3, 3]), "different and in order"),
    (set_in("evidence", "rows", to=[1, 0, 2, 3, 4]), "different and in order"),
    (set_in("evidence", "rows", to=[0, 1, 2, 3]), "different rows"),
    (set_in("evidence", "rows", to=[0, 1, 2, 3, -1]), "outside"),
    (set_in("evidence", "rows", to=[0, 1, 2, 3, 11]), "outside"),
    (set_in("evidence", "rows", to=[0, 1, 2, 3, True]), "outside"),
    (set_in("evidence", "modulus", to=7), "exactly the fields rows"),
    (set_in("verdict", to="REFUTED"), "exactly the fields none"),
    (set_in("verdict", to="UNKNOWN"), "neither PROVED nor REFUTED"),
    (set_in("verdict", to="HOLDS_NUMERICALLY"), "neither PROVED nor REFUTED"),
    (set_in("witness", to={"row": 4}), "PROVED has a witness"),
    (set_in("level", to="real"), "level of this claim is data"),
    (set_in("observed", to=None), "exactly the fields"),
    (set_in("unchecked", "proof", to="by hand"), "exactly the fields"),
    (set_in("unchecked", "method", to=1), "not a string"),
    (set_in("claim", "sentence", to="every row is injective"), "sentence"),
    (set_in("claim", "name", to="true"), "unknown"),
    (stated("first_row", 3), "outside"),
    (set_in("claim", "parameters", "first_row", to="4"), "not an integer"),
    (set_in("subject", 0, "file", to="../outside.safetensors"), "plain path"),
    (set_in("subject", 0, "file", to="/etc/hostname"), "plain path"),
    (set_in("subject", 0, "file", to="tensors/none"), "cannot be opened"),
    (set_in("subject", 0, "shape", to=[4, 12]), "type or shape"),
    (set_in("subject", 0, "dtype", to="F64"), "type or shape"),
    (set_in("subject", 0, "tensor", to="value"), "holds no tensor"),
    (set_in("subject", 0, "role", to="value"), "exactly the roles"),
    (set_in("extra", to=1), "exactly the fields"),
    (set_in("format_version", to=1), "issued anew"),
    (set_in("format_version", to=True), "issued anew"),
]


@pytest.mark.parametrize(("change", "words"), RANK)
def test_a_forged_certificate_of_rank(run, change, words):
    with pytest.raises(checker.Rejected, match=words):
        checker.check(rewritten(files(run)[0], change))


def first_leaf(tree):
    while "axis" in tree:
        tree = tree["low"]
    return tree


def heavier(content):
    leaf = first_leaf(content["evidence"]["tree"])
    leaf["p"][0] = (2.0).hex()


def shifted_logs(content):
    leaf = first_leaf(content["evidence"]["tree"])
    leaf["log_p"] = [float(-9).hex()] * len(leaf["log_p"])


def half_a_tree(content):
    content["evidence"]["tree"] = {"axis": 0, "low": content["evidence"]["tree"]}


BOX = [
    (heavier, "sum to one"),
    (shifted_logs, "too small"),
    (half_a_tree, "exactly the fields"),
    (stated("share", (0.9).hex()), "does not reach"),
    (set_in("claim", "parameters", "share", to="nan"), "only written form"),
    (stated("scale", float(40).hex()), "does not reach"),
    (stated("window", [0, 40]), "out of range"),
    (stated("window", [3, 3]), "out of range"),
]


@pytest.mark.parametrize(("change", "words"), BOX)
def test_a_forged_certificate_of_locality(run, change, words):
    with pytest.raises(checker.Rejected, match=words):
        checker.check(rewritten(files(run)[1], change))


def test_a_share_a_hair_above_what_the_leaf_reaches(tmp_path):
    """On a box of almost no width the bound of the only leaf is the share itself."""
    rng = torch.Generator().manual_seed(1)
    key = torch.randn(12, 4, generator=rng, dtype=torch.float64)
    query = torch.randn(4, generator=rng, dtype=torch.float64)
    box = (query - 1e-12, query + 1e-12)
    share = float((key @ query).softmax(0)[:4].sum())
    found = certify.locality(
        key, box, window=(0, 4), share=share * (1 - 1e-6), scale=1.0, folder=tmp_path
    )
    assert found.verdict is Verdict.PROVED
    (path,) = files(tmp_path)
    with pytest.raises(checker.Rejected, match="does not reach"):
        checker.check(rewritten(path, stated("share", (share * (1 + 1e-6)).hex())))
    assert checker.check(rewritten(path, stated("share", (share * (1 - 1e-7)).hex()))) == "PROVED"


def test_a_share_that_holds_in_the_middle_only(tmp_path):
    """The leaf of a tiny box, forged into the certificate of a wide one around it.

    The keys outside the window point along (1, -1): moves of both coordinates cancel unless every
    one counts with its size.
    """
    key = torch.tensor([[0.0, 0.0]] * 4 + [[1.0, -1.0], [-1.0, 1.0]] * 4, dtype=torch.float64)
    query = torch.zeros(2, dtype=torch.float64)
    share = 4 / 12
    leaves = []
    for name, radius, claimed in (("tiny", 1e-12, 0.999 * share), ("wide", 0.3, 0.3 * share)):
        found = certify.locality(
            key, (query - radius, query + radius), window=(0, 4), share=claimed, scale=1.0,
            folder=tmp_path / name,
        )  # fmt: skip
        assert found.verdict is Verdict.PROVED
        leaves.append(files(tmp_path / name)[0])
    leaf = json.loads(leaves[0].read_text())["evidence"]["tree"]

    def forged(content):
        stated("share", (0.99 * share).hex())(content)
        content["evidence"]["tree"] = leaf

    with pytest.raises(checker.Rejected, match="does not reach"):
        checker.check(rewritten(leaves[1], forged))


def test_logarithms_a_hair_too_small(run):
    def shaved(content):
        leaf = first_leaf(content["evidence"]["tree"])
        leaf["log_p"] = [(float.fromhex(x) - 1e-9).hex() for x in leaf["log_p"]]

    with pytest.raises(checker.Rejected, match="too small"):
        checker.check(rewritten(files(run)[1], shaved))


def test_a_wider_box_is_other_data(run):
    """The box is a tensor of its own: widened, it has another hash."""
    path = tensors_of(files(run)[1])
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"\x7b\x14\xae\x47\xe1\x7a\x94\x3f", b"\x00" * 6 + b"\xf0\x3f"))
    with pytest.raises(checker.Rejected, match="other bytes"):
        checker.check(files(run)[1])


def test_names_that_stand_twice_and_numbers_with_points(run):
    path = files(run)[0]
    text = path.read_text()
    for bad in (
        text.replace('"level": "data"', '"level": "data",\n "level": "data"'),
        text.replace('"format_version": 2', '"format_version": 2.0'),
        text.replace('"format_version": 2', '"format_version": NaN'),
        "[" * 100_000,
        text + " ",
    ):
        path.write_text(bad)
        with pytest.raises(checker.Rejected):
            checker.check(path)


def test_data_behind_a_link_is_refused(run):
    path = tensors_of(files(run)[0])
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")
    with pytest.raises(checker.Rejected, match="link"):
        checker.check(files(run)[0])
