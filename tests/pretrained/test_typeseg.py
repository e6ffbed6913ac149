"""A trained Mamba whose layers scan in both directions; its tags are those of its own source.

typeseg 0.2.7 (Apache-2.0). Its numpy source is read from the archive as text and run in a process
of its own, with the widest numbers in place of its float32.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import dsf
from tests.pretrained.tagger import ADAPTER, LAYERS, STATES, Tagger, encoded, read_arrays

WEIGHTS = "typeseg"
SAMPLES = {
    "python": 'def greet(name):\n    if not name:\n        return None\n    return f"hi {name}"\n',
    "json": '{"name": "Ada", "born": 1815, "friends": ["Charles", "Mary"], "alive": false}\n',
    "sql": "SELECT name, born FROM people WHERE born < 1900 ORDER BY name;\n",
    "prose": "The lighthouse keeper wrote one line in his log every evening: the height of the "
    "sea, and the names of the ships — whatever their size.\n",
}
REFERENCE = """
import sys
import numpy as np

class Wide:
    float32 = np.float64
    def __getattr__(self, name):
        return getattr(np, name)

source, packed, tokens, answer = sys.argv[1:]
scope = {"__name__": "reference"}
exec(compile(open(source, encoding="utf-8").read(), source, "exec"), scope)
with np.load(packed) as file:
    weights = {name.replace("__", "/"): file[name].astype(np.float64) for name in file.files}
with np.load(tokens) as file:
    scores = {name: scope["mamba_forward"](Wide(), weights, file[name]) for name in file.files}
np.savez(answer, **scores)
"""


@pytest.fixture(scope="module")
def saved(weights):
    return read_arrays(weights / "data" / "mamba_al.npz")


@pytest.fixture(scope="module")
def tagger(saved):
    return Tagger(saved).eval()


@pytest.fixture(scope="module")
def reference(weights, tmp_path_factory):
    """The scores that the package's own source gives every sample, in float64."""
    room = tmp_path_factory.mktemp("typeseg")
    raw = {
        name: np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)
        for name, text in SAMPLES.items()
    }
    np.savez(room / "tokens.npz", **raw)
    files = (weights / "_mamba_kernel.py", weights / "data" / "mamba_al.npz")
    command = [sys.executable, "-I", "-c", REFERENCE, *map(str, files)]
    command += [str(room / "tokens.npz"), str(room / "scores.npz")]
    subprocess.run(command, check=True, timeout=240)
    return read_arrays(room / "scores.npz")


def test_every_weight_of_the_file_is_used(tagger, saved):
    held, stored = (
        sum(part.numel() for part in parts) for parts in (tagger.parameters(), saved.values())
    )
    assert held == stored > 1_200_000
    assert len(list(tagger.parameters())) == len(saved)


@pytest.mark.parametrize("kind", SAMPLES)
def test_its_tags_are_unchanged(tagger, reference, weights, kind):
    """Every byte of every sample: the same scores in float64, the same tag in float32."""
    labels = json.loads((weights / "data" / "manifest.json").read_text())["labels"]
    ids = encoded(SAMPLES[kind])
    with torch.no_grad():
        scores = tagger(ids)[0]
    assert torch.equal(scores.argmax(-1), reference[kind].argmax(-1))
    torch.testing.assert_close(scores.double(), reference[kind], rtol=1e-4, atol=1e-4)
    if kind != "prose":
        tags = [labels[tag] for tag in scores.argmax(-1).tolist()]
        assert tags.count(kind) > 0.8 * len(tags)


@pytest.fixture(scope="module")
def inspection(tagger):
    return dsf.inspect(tagger, encoded(SAMPLES["python"]), adapters=(ADAPTER,))


def test_every_layer_is_exact(inspection):
    assert [layer.name for layer in inspection] == [f"mixers.{k}" for k in range(LAYERS)]
    assert inspection.unsupported == ()
    assert all(layer.formula <= 1e-12 for layer in inspection)


def test_from_dsf_systems_alone(reference, saved):
    """Whole text, float64, every scan by dsf: the scores of the package's source to rounding."""
    model = Tagger(saved).double().eval()
    ids = encoded(SAMPLES["sql"])
    read = dsf.inspect(model, ids, adapters=(ADAPTER,))
    x = model.bytes(ids)
    with torch.no_grad():
        for norm, layer, mixer in zip(model.norms, read, model.mixers, strict=False):
            mixed = dsf.respond(layer.system, layer.signal)[..., 0, 0].mT
            _, gate = mixer.inner(norm(x)).chunk(2, dim=-1)
            x = x + mixer.outer(mixed * torch.nn.functional.silu(gate))
        scores = model.kind(model.norms[-1](x))[0]
    torch.testing.assert_close(scores, reference["sql"], rtol=1e-9, atol=1e-9)


def test_its_maps_read_both_ways(inspection):
    map = inspection[0].map()[0]
    assert map.shape[0] == 256
    assert map.triu(1).abs().amax() > 0
    assert map.tril(-1).abs().amax() > 0


def test_its_decays_lie_close_together(saved):
    """All 16 poles of every channel are one pole almost: they were not kept apart in training."""
    poles = saved["CheckpointMambaBlock1D_0__A_log"].exp()
    assert poles.shape == (256, STATES)
    assert (poles - 1).abs().max() < 0.2
    assert (poles.amax(-1) / poles.amin(-1)).min() > 1.01


def test_the_shares_of_the_bytes_are_the_score(tagger):
    """Through six layers that scan both ways, behind a filter that looks ahead."""
    ids = encoded(SAMPLES["json"][:30])
    stack = dsf.stack(tagger, ids, adapters=[ADAPTER])
    with torch.no_grad():
        kind = int(tagger(ids)[0, 12].argmax())
        score = tagger.double()(ids)[0, 12, kind]
    tagger.float()
    share = stack.attribute(kind, position=12)
    torch.testing.assert_close(share.value[0], score, rtol=1e-10, atol=0)
    together = share.tokens.sum(dim=-1) + share.remainder
    torch.testing.assert_close(together, share.value, rtol=1e-10, atol=0)
    assert share.tokens[0, 13:].abs().max() > 0.01
