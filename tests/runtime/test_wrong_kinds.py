"""Arguments of a wrong kind, length or sameness are told by name, and nothing is written."""

import pytest
import torch
from matplotlib.figure import Figure

import dsf
from dsf import models
from dsf.report import draw_grid

pytestmark = pytest.mark.usefixtures("our_own_errors")
IDS = torch.arange(6).unsqueeze(0)
MAP = torch.eye(3)
EDITS = [dsf.edits.Ablate(0)]


@pytest.fixture(scope="module")
def found():
    return dsf.inspect(models.folder("llama"), input_ids=IDS, layers=0, checks="none")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("title", 3),
        ("target", 3),
        ("facts", [1]),
        ("verdicts", 3),
        ("verdicts", [1]),
        ("progress", 3),
        ("grid", 3),
        ("grid", "ab"),
        ("grid", (1.5, 2)),
        ("path", 3),
        ("result", 3),
    ],
)
def test_a_report(found, tmp_path, argument, value):
    asked = {"result": found, "path": tmp_path / "a.html", argument: value}
    with pytest.raises(TypeError, match=f"'{argument}"):
        dsf.show(**asked)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("argument", "value"), [("progress", 3), ("grid", 3), ("verdicts", "a")])
def test_a_view(found, argument, value):
    pytest.importorskip("anywidget", reason='needs pip install "dsf-toolkit[notebooks]"')
    with pytest.raises(TypeError, match=f"'{argument}'"):
        dsf.show(found, **{argument: value})


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: dsf.report.plot.heat_map(MAP, title=3), "title"),
        (lambda: dsf.report.plot.heat_map(MAP, tokens="abc"), "tokens"),
        (lambda: dsf.report.plot.heat_map(MAP, tokens=3), "tokens"),
        (lambda: dsf.report.plot.heat_map(MAP, tokens=[1, 2, 3]), "tokens"),
        (lambda: dsf.report.plot.heat_map(MAP, axes=3), "axes"),
        (lambda: dsf.report.plot.heat_maps([MAP]), "maps"),
        (lambda: dsf.report.plot.heat_maps({"a": MAP}, columns="a"), "columns"),
        (lambda: draw_grid(3, "a.png"), "inspection"),
        (lambda: dsf.evaluate.realise(3), "map"),
        (lambda: dsf.evaluate.realise(MAP, tolerance="a"), "tolerance"),
        (lambda: dsf.mixers.DeltaNet.draw(3, steps=5), "rng"),
        (lambda: dsf.sweep(models.folder("llama"), edits=3, target=3, input_ids=IDS), "edits"),
        (
            lambda: dsf.sweep(
                models.folder("llama"), edits=EDITS, target=3, progress=3, input_ids=IDS
            ),
            "progress",
        ),
        (
            lambda: dsf.sweep(
                models.folder("llama"), edits=EDITS, target=3, together="a", input_ids=IDS
            ),
            "together",
        ),
    ],
)
def test_other_functions(call, argument):
    with pytest.raises(TypeError, match=f"'{argument}'"):
        call()


@pytest.mark.parametrize("mixer", dsf.mixers.ALL)
def test_every_mixer_is_drawn_from_a_generator(mixer):
    with pytest.raises(TypeError, match="'rng'"):
        mixer.draw(3, steps=5)


def test_as_many_texts_as_tokens():
    axes = Figure().subplots()
    for tokens in (["a"], ["a"] * 41):
        with pytest.raises(ValueError, match="rows has 3"):
            dsf.report.plot.heat_map(MAP, tokens=tokens, axes=axes)
        with pytest.raises(ValueError, match="rows has 3"):
            dsf.report.plot.heat_maps({"one": MAP, "two": MAP}, tokens=tokens)
    with pytest.raises(ValueError, match="rows"):
        dsf.report.plot.heat_map(MAP[:, :2], tokens=["a", "b", "c"], axes=axes)
    assert (
        dsf.report.plot.heat_map(MAP, tokens=["a", "b", "c"]).get_xticklabels()[1].get_text() == "b"
    )


@pytest.mark.parametrize("tolerance", [-1, 1, float("nan")])
def test_a_tolerance_is_a_share(tolerance):
    with pytest.raises(ValueError, match="'tolerance'"):
        dsf.evaluate.realise(MAP, tolerance=tolerance)


def test_a_logit_less_itself():
    run = dsf.stack(models.folder("llama"), input_ids=IDS.repeat(2, 1))
    for target, against in ((7, 7), ([1, 7], 7), ([1, 7], [2, 7])):
        with pytest.raises(ValueError, match="token 7"):
            run.attribute(target, against=against)
    with pytest.raises(ValueError, match="is 0"):
        dsf.sweep(models.folder("llama"), edits=EDITS, target=3, against=3, input_ids=IDS)
    assert run.attribute([1, 7], against=[7, 1]).value.shape == (2,)
