"""What was noticed while a checkpoint was loaded is told by every command that loads one."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

IDS = ("--ids", "1 2 3 4 5 6")
EDIT = ("--edit", "ablate layers=0 heads=0", "--target", "3")
CALLS = {
    "inspect": (*IDS, "--no-report"),
    "heads": IDS,
    "state": IDS,
    "check": (*IDS, "--layers", "0"),
    "attribute": (*IDS, "--target", "3"),
    "intervene": (*IDS, *EDIT),
    "sweep": (*IDS, *EDIT, "--sweep"),
    "audit": IDS,
    "measure": ("prompts.txt", "--ids", "--quantity", "negative_share"),
}


@pytest.fixture(scope="module")
def with_a_head(checkpoint, tmp_path_factory):
    """The same checkpoint with the head of a classifier, for which the model has no place."""
    from safetensors.torch import load_file, save_file

    place = tmp_path_factory.mktemp("with_a_head") / "model"
    shutil.copytree(checkpoint, place)
    weights = load_file(place / "model.safetensors") | {"score.weight": torch.ones(3, 16)}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


@pytest.mark.parametrize("command", CALLS)
def test_a_command_tells_what_was_ignored(run, with_a_head, tmp_path, command):
    (tmp_path / "prompts.txt").write_text("1 2 3\n4 5 6\n")
    name = "intervene" if command == "sweep" else command
    told = "ignored weights that the model does not use: 'score.weight'."
    done = run(name, with_a_head, *CALLS[command])
    assert f"on loading: {told}\n" in done.stdout, done.output
    again = ("--out", "again") if command in ("check", "measure") else ()
    found = json.loads(run(name, with_a_head, *CALLS[command], *again, "--json").stdout)
    assert found["on_loading"] == told


def test_a_comparison_tells_it_of_the_model_that_it_is_true_of(run, checkpoint, with_a_head):
    done = run("compare", checkpoint, with_a_head, *IDS, "--layers", "0", "--no-verdicts")
    told = "ignored weights that the model does not use: 'score.weight'."
    assert f"on loading {with_a_head}: {told}\n" in done.stdout, done.output
    assert "on_loading" not in json.loads(run("heads", checkpoint, *IDS, "--json").stdout)


def test_functions_that_load_a_checkpoint_keep_it(with_a_head, tmp_path):
    import dsf

    ids = torch.tensor([[1, 2, 3, 4]])
    told = "ignored weights that the model does not use: 'score.weight'."
    assert dsf.stack(with_a_head, input_ids=ids).inspection.environment["on loading"] == told
    cut = dsf.edits.Ablate(0, heads=[0])
    result = dsf.intervene(with_a_head, input_ids=ids, edits=[cut])
    assert result.notes == (told,)
    dsf.jobs.measure_prompts(with_a_head, [[1, 2, 3]], tmp_path / "job")
    assert dsf.jobs.notes(tmp_path / "job") == (told,)
