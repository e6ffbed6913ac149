"""Sweeps: batches give what single runs give, files go on where they ended, others are refused."""

import copy
import json
from functools import cache

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.inspection.errors import InspectionError, InspectionMemoryError
from dsf.interventions.intervention import LiveModel
from dsf.interventions.sweeps import fingerprint
from dsf.models import folder, recall
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")


def prompt(samples=2, length=16):
    rng = torch.Generator().manual_seed(0)
    return recall.draw(rng, samples, pairs=length // 4, length=length).tokens


def model_of(name, dtype=torch.float32):
    return copy.deepcopy(saved(name)).to(dtype)


@cache
def saved(name):
    return transformers.AutoModelForCausalLM.from_pretrained(folder(name))


@pytest.fixture
def runs(monkeypatch):
    """How many runs each changed run of a model is made for."""
    made, changed = [], LiveModel.changed

    def noted(self, plan, times=1):
        made.append(times)
        return changed(self, plan, times)

    monkeypatch.setattr(LiveModel, "changed", noted)
    return made


def one_by_one(model, cases, target=5, position=-1, sources=None, **given):
    def effect(case):
        result = dsf.intervene(model, edits=case, sources=sources, **given)
        return result.effect(target, position=position)

    return torch.stack([effect(case) for case in cases])


def close(ours, theirs, *, within=1e-4):
    return (ours - theirs).abs().max() <= within * theirs.abs().max()


def kinds_of(first, last):
    return [
        [],
        *(edits.Cut(first, key=at) for at in (1, 4, 7)),
        *(edits.Scale(last, 1.5, query=at, samples=[1]) for at in (3, -1)),
        *([edits.Cut(first, key=at), edits.Ablate(last)] for at in (2, 3)),
        *(edits.Forget(last, token) for token in (3, 6)),
        edits.Reduce(last, 1, 4),
        edits.Mean(first),
        edits.Negative(last),
    ]


@pytest.mark.sampled(count=9)
@pytest.mark.usefixtures("our_own_errors")  # checks of shapes would take most of the time
@pytest.mark.parametrize("name", sorted(tiny_models.FAMILIES))
def test_batches_of_every_recurrent_family_are_its_runs_one_by_one(name, runs):
    tiny_models.skip_a_known_defect(name)
    model, given = tiny_models.build(name), tiny_models.inputs(9, padding="left")
    cases = kinds_of(0, -1)
    expected = dsf.sweep(model, edits=cases, target=5, together=1, **given)
    assert set(runs) == {1}
    effects = dsf.sweep(model, edits=cases, target=5, together=4, **given)
    assert close(effects, expected)
    assert sum(times for times in runs if times > 1) >= 11  # with one more in the first of a kind
    assert effects[0].eq(0).all()
    assert expected[1:4].abs().max() > 1e-6


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_half_precision_and_positions_in_between(name, runs):
    model, given = model_of(name, torch.bfloat16), {"input_ids": prompt()}
    cases = [edits.Ablate(1, heads=[head]) for head in range(2)]
    for position in (7, 15):
        expected = one_by_one(model, cases, position=position, **given)
        runs.clear()
        effects = dsf.sweep(model, edits=cases, target=5, position=position, **given)
        size = dsf.intervene(model, **given).clean.abs().max()
        assert (effects - expected).abs().max() <= 0.05 * size
        assert max(runs) > 1


def test_parts_of_another_run_go_into_one_sample_only(runs):
    model, tokens = model_of("llama", torch.float64), prompt(samples=1)
    sources = {"other": dsf.inspect(model, checks="none", input_ids=tokens.flip(1))}
    cases = [edits.MapFrom(1, "other", heads=[head]) for head in (0, 1)]
    cases += [edits.ValueFrom(1, "other", tokens=[at]) for at in range(2)]
    expected = one_by_one(model, cases, sources=sources, input_ids=tokens)
    runs.clear()
    given = {"edits": cases, "target": 5, "sources": sources, "input_ids": tokens}
    assert close(dsf.sweep(model, **given), expected, within=1e-6)
    assert max(runs) > 1
    both = prompt(samples=2)
    sources = {"other": dsf.inspect(model, checks="none", input_ids=both.flip(1))}
    expected = one_by_one(model, cases, sources=sources, input_ids=both)
    runs.clear()
    given |= {"sources": sources, "input_ids": both}
    assert close(dsf.sweep(model, **given), expected, within=1e-9)
    assert set(runs) == {1}


def test_states_of_another_run_share_a_batch():
    model, tokens = model_of("mamba2", torch.float64), prompt(samples=1)
    sources = {"other": dsf.inspect(model, checks="none", input_ids=tokens.flip(1))}
    cases = [edits.StateFrom(1, at, "other") for at in (3, 7)]
    expected = one_by_one(model, cases, sources=sources, input_ids=tokens)
    given = {"target": 5, "sources": sources, "input_ids": tokens}
    assert close(dsf.sweep(model, edits=cases, **given), expected, within=1e-6)


class Coupled(nn.Module):
    """Samples meet in the mean over all of them: an edit of one moves the others."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x, x, x)[0]
            x = x - x.mean(dim=0, keepdim=True)
        return self.head(x)


def coupled(samples=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Coupled().double(), torch.randn(samples, 6, 8, dtype=torch.float64)


def test_samples_that_move_each_other_are_not_put_together(runs):
    model, x = coupled()
    cases = [edits.Ablate(0, heads=[head], samples=[k]) for head in (0, 1) for k in (0, 1)]
    expected = torch.stack([dsf.intervene(model, x, edits=each).effect(2) for each in cases])
    runs.clear()
    assert torch.equal(dsf.sweep(model, x, edits=cases, target=2), expected)
    assert runs == [1, 5, 1, 1, 1, 1]  # tried once, in vain


def test_a_batch_for_which_memory_does_not_suffice_is_halved(monkeypatch, runs):
    model, given = model_of("llama"), {"input_ids": prompt()}
    cases = [edits.Cut(1, key=at) for at in range(12)]
    expected, noted = one_by_one(model, cases, **given), LiveModel.changed

    def changed(self, plan, times=1):
        if times > 4:
            raise InspectionMemoryError("there is no more")
        return noted(self, plan, times)

    monkeypatch.setattr(LiveModel, "changed", changed)
    assert close(dsf.sweep(model, edits=cases, target=5, **given), expected)
    assert 1 < max(runs) <= 4


@pytest.mark.usefixtures("our_own_errors")
def test_a_wrong_edit_is_refused_before_the_first_changed_run(runs):
    model, given = model_of("llama"), {"input_ids": prompt(), "target": 5}
    right = edits.Ablate(0)
    for wrong, words in (
        (edits.Ablate(0, heads=[9]), r"9 is none of the 2 of model"),
        (edits.Ablate(7), "layers: 7 is none of the 2 layers"),
        ([right, edits.Forget(1, 99)], "token=99 is none of the 16 tokens"),
        (edits.MapFrom(1, "there"), "refers to the run 'there'"),
    ):
        with pytest.raises(InspectionError, match=f"number 1 of the edits, .*{words}"):
            dsf.sweep(model, edits=[right, wrong], **given)
    with pytest.raises(TypeError, match="one is str"):
        dsf.sweep(model, edits=[right, ["ablate"]], **given)
    with pytest.raises(ValueError, match="'together'"):
        dsf.sweep(model, edits=[right], together=0, **given)
    assert runs == []


# The file


CASES = [edits.Cut(1, key=at) for at in range(6)] + [[], [edits.Ablate(0), edits.Cut(1, key=0)]]


@pytest.fixture
def question():
    return {"edits": CASES, "target": 5, "input_ids": prompt(), "together": 2}


def stopped_after(count):
    def tell(done, _):
        if done == count:
            raise KeyboardInterrupt

    return tell


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_a_sweep_that_is_stopped_goes_on_where_it_ended(count, question, tmp_path, runs):
    model, file = model_of("llama"), tmp_path / "there" / "sweep.jsonl"
    expected = dsf.sweep(model, **question)
    with pytest.raises(KeyboardInterrupt):
        dsf.sweep(model, **question, resume=file, progress=stopped_after(count))
    lines = file.read_text().splitlines()
    assert len(lines) == count + 1
    assert [*map(json.loads, lines)]
    runs.clear()
    told = []
    effects = dsf.sweep(
        model, **question, resume=str(file), progress=lambda *pace: told.append(pace)
    )
    assert close(effects, expected, within=1e-5)
    assert told == [(done, 8) for done in range(count + 1, 9)]
    runs.clear()
    assert torch.equal(dsf.sweep(model, **question, resume=file), effects)
    assert runs == []
    assert len(file.read_text().splitlines()) == 9


def test_a_line_that_was_torn_is_made_again(question, tmp_path):
    model, file = model_of("llama"), tmp_path / "sweep.jsonl"
    expected = dsf.sweep(model, **question, resume=file)
    whole = file.read_bytes()
    for lost in (1, 9, len(whole.splitlines()[-1])):
        file.write_bytes(whole[:-lost])
        assert close(dsf.sweep(model, **question, resume=file), expected, within=1e-5)
        _, *made = map(json.loads, file.read_bytes().splitlines())
        assert sorted(line["run"] for line in made) == list(range(8))


def test_a_file_of_another_sweep_is_refused_by_name(question, tmp_path, runs):
    model, file = model_of("llama"), tmp_path / "sweep.jsonl"
    dsf.sweep(model, **question, resume=file)
    before = file.read_bytes()
    runs.clear()
    other = model_of("llama")
    other.lm_head.weight.data[3] *= 1.001
    for changed, words in (
        ({"model": other}, "model"),
        ({"model": model_of("llama", torch.float64)}, "model"),
        ({"input_ids": prompt().flip(0)}, "input"),
        ({"target": 6}, "target"),
        ({"against": 6}, "target"),
        ({"position": 3}, "target"),
        ({"edits": CASES[:-1]}, "list of edits"),
        ({"edits": [*CASES[1:], CASES[0]]}, "list of edits"),
        ({"input_ids": prompt().flip(0), "edits": CASES[1:]}, "input and another list of edits"),
    ):
        call = {"model": model, **question, "resume": file, **changed}
        with pytest.raises(ValueError, match=f"sweep.jsonl' is of another {words}. Name another"):
            dsf.sweep(**call)
    model.config.rms_norm_eps = 0.5
    for block in model.model.layers:
        block.input_layernorm.variance_epsilon = 0.5
    with pytest.raises(ValueError, match="not the same"):
        dsf.sweep(model, **question, resume=file)
    assert file.read_bytes() == before
    assert runs == []


def test_files_that_are_none_are_refused(question, tmp_path):
    model, file = model_of("llama"), tmp_path / "sweep.jsonl"
    with pytest.raises(ValueError, match="is a folder"):
        dsf.sweep(model, **question, resume=tmp_path)
    dsf.sweep(model, **question, resume=file)
    first, *lines = file.read_text().splitlines()
    run = json.loads(lines[0])
    for content, words in (
        ("", "is not a record"),
        ("a letter to my aunt\n", "is not a record"),
        ("[]\n", "is not a record"),
        ("7\n", "is not a record"),
        ('{"dsf_sweep": 3}\n', "is not a record"),
        (f"{first}\nhello\n", "is not a record"),
        (f"{first}\n7\n", "has a line that is not a run"),
        (f"{first}\n{json.dumps({**run, 'run': 99})}\n", "has a line that is not a run of this"),
        (f"{first}\n{json.dumps({**run, 'run': True})}\n", "has a line that is not a run of this"),
        (
            f"{first}\n{json.dumps({**run, 'effect': [1.0]})}\n",
            "has a line that is not a run of this",
        ),
        (
            f"{first}\n{json.dumps({**run, 'effect': ['much', 1.0]})}\n",
            "has a line that is not a run",
        ),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=f"{words}.*Name another file"):
            dsf.sweep(model, **question, resume=file)
        assert file.read_text() == content
    held = edits.MapFrom(1, dsf.inspect(model, checks="none", input_ids=prompt()))
    with pytest.raises(ValueError, match="no form"):
        dsf.sweep(model, **(question | {"edits": [held]}), resume=tmp_path / "new.jsonl")


def test_another_run_of_the_same_name_is_another_sweep(question, tmp_path):
    model, file = model_of("llama"), tmp_path / "sweep.jsonl"
    question["edits"] = [edits.MapFrom(1, "other")]
    one, other = (
        dsf.inspect(model, checks="none", input_ids=each) for each in (prompt(), prompt().flip(1))
    )
    dsf.sweep(model, **question, sources={"other": one}, resume=file)
    with pytest.raises(ValueError, match="'other'"):
        dsf.sweep(model, **question, sources={"other": other}, resume=file)


def test_no_edits_and_numbers_that_are_none(tmp_path):
    model, x = coupled()
    nothing = dsf.sweep(model, x, edits=[], target=2, resume=tmp_path / "a.jsonl")
    assert nothing.shape == (0, 2)
    assert dsf.sweep(model, x, edits=[], target=2, resume=tmp_path / "a.jsonl").shape == (0, 2)
    endless = [edits.Scale(1, 1.7e308), edits.Scale(1, -1.7e308)]  # more than numbers hold
    for _ in range(2):
        effects = dsf.sweep(model, x, edits=[endless], target=2, resume=tmp_path / "b.jsonl")
        assert not effects.isfinite().any()
    assert "NaN" not in (tmp_path / "b.jsonl").read_text()


def test_progress_is_reported():
    model, x = coupled()
    told = []
    dsf.sweep(
        model, x, edits=[edits.Cut(k, key=0) for k in (1, 0)], target=2,
        progress=lambda *pace: told.append(pace),
    )  # fmt: skip
    assert told == [(1, 2), (2, 2)]


def test_fingerprints_differ_where_numbers_names_or_order_do():
    x = torch.arange(4.0)
    same = [x, x.clone(), x.repeat(2)[:4]]
    assert len({fingerprint(each) for each in same}) == 1
    others = [
        x.double(),
        x.reshape(2, 2),
        x.flip(0),
        [x],
        {"a": x},
        {"b": x},
        (x, x),
        x[:3],
        4,
        "4",
    ]
    assert len({fingerprint(each) for each in [x, *others]}) == len(others) + 1
