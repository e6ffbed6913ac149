"""``dsf state``: rows for a person, numbers for a program, figures, and every wrong call."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

IDS = "1 17 2 18 3 19 4 20 1"


@pytest.fixture(scope="module")
def model():
    from dsf.models import folder

    return folder("mamba2")


def test_numbers_and_figures(run, model, only_object, tmp_path):
    done = run("state", model, "--ids", IDS, "--layers", "0", "--out", tmp_path, "--json")
    found = only_object(done.stdout)
    assert (done.exit_code, found["command"]) == (0, "state")
    (layer,) = found["layers"]
    assert layer["states"] == 32
    assert sum(layer["shares"].values()) == pytest.approx(1)
    assert found["written"] == [str(tmp_path / "state-00.png")]
    assert (tmp_path / "state-00.png").stat().st_size > 5000


def test_a_person_reads_a_row_for_each_layer(run):
    from dsf.models import folder

    shown = run("state", folder("qwen3_next"), "--ids", IDS).stdout
    assert "model.layers.1.linear_attn" in shown
    assert "no state: model.layers.0.self_attn: attention keeps every token" in shown
    assert "because it" in shown or "little is lost" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ids", IDS, "--maps", "0"], "--maps"),
        ([], "exactly one of --text, --ids and --file"),
        (["--ids", "1 x"], "--ids"),
    ],
)
def test_wrong_calls_are_refused(run, model, arguments, words):
    done = run("state", model, *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
