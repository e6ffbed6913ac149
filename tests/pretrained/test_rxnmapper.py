"""A transformer that was found to map atoms: in one head the atoms of a product attend to theirs.

rxnmapper 0.4.3 (MIT), Schwaller et al. 2021, doi:10.1126/sciadv.abe4166: an ALBERT of twelve
layers that share their weights. Head 5 of layer 10 is the published one, and the mappings and
confidences below are those that the package's own tests expect, in the order of the atoms here.
"""

import re
import shutil

import pytest
import torch
from safetensors.torch import save_file

import dsf
from dsf.loading import LoadError, load_model

WEIGHTS = "rxnmapper"
LAYER, HEAD, NEIGHBOUR = 10, 5, 90.0
TOKEN = re.compile(r"\[[^\]]+\]|Br|Cl|>>|[A-Za-z]|[-.()=#~*]|\d")
MAPPED = {
    "CC[O-]~[Na+].BrCC>>CCOCC": (
        "[CH3:5][CH2:4][O-:3]~[Na+].Br[CH2:2][CH3:1]>>[CH3:1][CH2:2][O:3][CH2:4][CH3:5]",
        None,
    ),
    "CCC[O-]~[Na+].BrCC>>CCOCCC": (  # the model takes the ends of one ethyl group for each other
        "[CH3:6][CH2:5][CH2:4][O-:3]~[Na+].Br[CH2:1][CH3:2]"
        ">>[CH3:1][CH2:2][O:3][CH2:4][CH2:5][CH3:6]",
        None,
    ),
    "NCC[O-]~[Na+].BrCC>>NCCOCC": (
        "[NH2:1][CH2:2][CH2:3][O-:4]~[Na+].Br[CH2:5][CH3:6]"
        ">>[NH2:1][CH2:2][CH2:3][O:4][CH2:5][CH3:6]",
        None,
    ),
    "C(C)O.BrC(C)>>CCOCC": (
        "[CH2:2]([CH3:1])[OH:3].Br[CH2:4]([CH3:5])>>[CH3:1][CH2:2][O:3][CH2:4][CH3:5]",
        0.9754605679009868,
    ),
    "CCO.BrCFC>>CCOCFC": (
        "[CH3:1][CH2:2][OH:3].Br[CH2:4][F:5][CH3:6]>>[CH3:1][CH2:2][O:3][CH2:4][F:5][CH3:6]",
        0.9730222157275086,
    ),
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F": (
        "[CH3:1][CH:2]([CH3:3])[SH:4].CN(C)C=O.[F:11][c:10]1[cH:9][cH:8][cH:7][n:6][c:5]1F"
        ".O=C([O-])[O-].[K+].[K+]>>[CH3:1][CH:2]([CH3:3])[S:4][c:5]1[n:6][cH:7][cH:8][cH:9]"
        "[c:10]1[F:11]",
        0.9565619900376546,
    ),
}


def is_atom(token):
    return token[0] in "[*" or token.isalpha()


def element(token):
    return re.sub(r"^\[?\d*|[@H+\-:\d].*|\]", "", token).capitalize()


def bonded(tokens):
    """Which atoms of a reaction are neighbours: along the chain, in branches, over ring numbers."""
    pairs, branches, rings, last, count = [], [], {}, None, 0
    for token in tokens:
        if token in (".", ">>"):
            last = None
        elif token == "(":
            branches.append(last)
        elif token == ")":
            last = branches.pop()
        elif token.isdigit() and token in rings:
            pairs.append((rings.pop(token), last))
        elif token.isdigit():
            rings[token] = last
        elif is_atom(token):
            if last is not None:
                pairs.append((last, count))
            last, count = count, count + 1
    neighbours = torch.zeros(count, count, dtype=torch.bool)
    for one, other in pairs:
        neighbours[one, other] = neighbours[other, one] = True
    return neighbours


def atom_map(weights, tokens):
    """The reactant atom of every product atom, and the confidence in all of them together.

    The surest pair is taken, its neighbours gain weight, and neither atom is taken again.
    """
    arrow = tokens.index(">>")
    atoms = [at for at, token in enumerate(tokens) if is_atom(token)]
    left = [at for at in atoms if at < arrow]
    right = [at for at in atoms if at > arrow]
    both = weights[right][:, left] + weights[left][:, right].T
    kinds = [[element(tokens[a]) == element(tokens[b]) for b in left] for a in right]
    both = both * torch.tensor(kinds)
    near = bonded(tokens)
    found, sure = {}, 1.0
    for _ in right:
        shares = both / both.sum(dim=-1, keepdim=True).clamp(min=1e-300)
        if shares.max() == 0:
            break
        product, reactant = divmod(int(shares.argmax()), len(left))
        found[product], sure = reactant, sure * shares.max().item()
        beside = near[len(left) + product][len(left) :], near[reactant][: len(left)]
        both[torch.outer(*beside)] *= NEIGHBOUR
        both[product], both[:, reactant] = 0, 0
    return found, sure


def numbered(mapped):
    """The same map, from the numbers that a mapped reaction carries."""
    reactants, products = (
        [re.search(r":(\d+)\]", token) for token in TOKEN.findall(side) if is_atom(token)]
        for side in mapped.split(">>")
    )
    place = {atom[1]: at for at, atom in enumerate(reactants) if atom}
    return {at: place[atom[1]] for at, atom in enumerate(products) if atom[1] in place}


@pytest.fixture(scope="module")
def resaved(weights, tmp_path_factory):
    """The checkpoint as safetensors: its archive is older than the ones that are read."""
    folder = tmp_path_factory.mktemp("rxnmapper")
    stored = torch.load(weights / "pytorch_model.bin", map_location="cpu", weights_only=True)
    save_file(
        {name: part.contiguous().clone() for name, part in stored.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    shutil.copy(weights / "config.json", folder)
    return folder, stored


@pytest.fixture(scope="module")
def loaded(resaved):
    return load_model(resaved[0])


@pytest.fixture(scope="module")
def read(weights, loaded):
    """What the model makes of a reaction, and its tokens."""
    words = (weights / "vocab.txt").read_text(encoding="utf-8").split("\n")

    def inspected(reaction):
        tokens = TOKEN.findall(reaction)
        assert "".join(tokens) == reaction
        ids = [words.index(token) for token in ("[CLS]", *tokens, "[SEP]")]
        return dsf.inspect(loaded.model, input_ids=torch.tensor([ids])), tokens

    return inspected


def test_the_old_archive_is_refused_with_the_cure(weights):
    with pytest.raises(LoadError, match="save_pretrained"):
        load_model(weights)


def test_its_weights_are_those_of_the_file(resaved, loaded):
    held, stored = loaded.model.state_dict(), resaved[1]
    unused = {"albert.pooler.weight", "albert.pooler.bias"}  # a head for pairs of sentences
    assert stored.keys() - held.keys() == unused
    assert len(held) > 20
    assert all(torch.equal(part, stored[name]) for name, part in held.items() if name in stored)
    # The decoder is the embedding once more, and is not stored twice.
    assert held.keys() - stored.keys() <= {"predictions.decoder.weight", "predictions.decoder.bias"}


@pytest.mark.parametrize(("reaction", "known"), MAPPED.items(), ids=lambda case: str(case)[:24])
def test_a_head_is_the_atom_map(read, reaction, known):
    inspection, tokens = read(reaction)
    assert len(inspection) == 12
    assert all(layer.formula <= 1e-12 for layer in inspection)
    mapped, confidence = known
    weights = inspection[LAYER].map()[0, HEAD, 1:-1, 1:-1]
    found, sure = atom_map(weights, tokens)
    assert found == numbered(mapped)
    if confidence is not None:
        assert sure == pytest.approx(confidence, rel=1e-4)


def test_other_heads_are_not(read):
    reaction = "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F"
    inspection, tokens = read(reaction)
    known = numbered(MAPPED[reaction][0])
    right = [
        (at, head)
        for at, layer in enumerate(inspection)
        for head in range(8)
        if atom_map(layer.map()[0, head, 1:-1, 1:-1], tokens)[0] == known
    ]
    assert (LAYER, HEAD) in right
    assert len(right) < 48


def test_the_mapping_head_is_found_without_being_told(read):
    """Of 96 heads two give all published mappings: the published one, and its neighbour above."""
    right = torch.zeros(12, 8)
    for reaction, (mapped, _) in MAPPED.items():
        inspection, tokens = read(reaction)
        for at, layer in enumerate(inspection):
            for head, weights in enumerate(layer.map()[0]):
                found, _ = atom_map(weights[1:-1, 1:-1], tokens)
                right[at, head] += found == numbered(mapped)
    assert (right == len(MAPPED)).nonzero().tolist() == [[LAYER, HEAD], [LAYER + 1, HEAD]]
    assert right.median() < len(MAPPED) / 2
