"""``dsf attribute``, ``intervene``, ``heads`` and ``compare``: answers, and every wrong call."""

import json
import math
import shutil

import pytest

from dsf import models


@pytest.fixture(scope="module")
def asked():
    """A recall prompt, where it is asked, the answer, a wrong answer, and where the answer is."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from dsf.models import folder, recall

    drawn = recall.draw(torch.Generator().manual_seed(0), samples=1)
    tokens = drawn.tokens[0].tolist()
    place = [at for at, each in enumerate(drawn.targets[0]) if each != recall.SILENT][-1]
    answer = drawn.targets[0, place].item()
    return {
        "model": str(folder("llama")),
        "ids": " ".join(map(str, tokens)),
        "tokens": tokens,
        "position": place,
        "target": answer,
        "against": tokens[1] if tokens[1] != answer else tokens[3],
        "key": tokens.index(answer),
    }


def options(asked):
    wanted = ("ids", "position", "target", "against")
    return [part for name in wanted for part in (f"--{name}", asked[name])]


def logit_difference(asked):
    """From the model library alone, whose angles stay in float32."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(asked["model"]).double()
    with torch.no_grad():
        logits = model(torch.tensor([asked["tokens"]])).logits[0, asked["position"]]
    return (logits[asked["target"]] - logits[asked["against"]]).item()


def test_shares_sum_to_the_models_own_logits(run, asked, only_object):
    done = run("attribute", asked["model"], *options(asked), "--json")
    found = only_object(done.stdout)
    assert (done.exit_code, found["command"], found["position"]) == (0, "attribute", 22)
    assert found["value"] == pytest.approx(logit_difference(asked), rel=1e-6)
    whole = sum(row["share"] for row in found["tokens"]) + found["remainder"]
    assert whole == pytest.approx(found["value"], rel=1e-10)
    assert found["sum"] == pytest.approx(whole, rel=1e-12)
    direct = sum(row["direct"] for row in found["layers"] if row["direct"] is not None)
    assert direct + found["embedding"] + found["remainder"] == pytest.approx(whole, rel=1e-10)
    strongest = found["edges"][0]
    assert (strongest["query"], strongest["key"]) == (asked["position"], asked["key"])
    assert len(found["edges"]) == 10


def test_what_is_lost_without_a_token_and_the_chances_of_the_answer(
    run, asked, only_object, tmp_path
):
    done = run("attribute", asked["model"], *options(asked), "--out", "page.html", "--json")
    found = only_object(done.stdout)
    chances = found["probabilities"]
    ratio = math.log(chances[str(asked["target"])] / chances[str(asked["against"])])
    assert ratio == pytest.approx(found["value"], rel=1e-6)
    assert sum(row["cut"] is not None for row in found["tokens"]) == 10
    cut = ("--edit", f"cut layers=* key={asked['key']}", "--json")
    edited = only_object(run("intervene", asked["model"], *options(asked), *cut).stdout)
    effect = found["tokens"][asked["key"]]["cut"]
    assert effect == pytest.approx(edited["effect"]["effect"], rel=1e-4)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<dt>Target</dt>" in page


def test_a_person_reads_tokens_layers_edges_and_the_sum(run, asked):
    shown = run("attribute", asked["model"], *options(asked), "--top", 2).stdout
    assert "after token 22" in shown
    assert f"{asked['key']} '{asked['target']}'" in shown
    assert "model.layers.1.self_attn" in shown
    assert "3 more layers" in shown
    assert "remainder +0, together" in shown


def test_paths_lead_from_tokens_to_the_logit(run, asked, only_object):
    found = only_object(
        run("attribute", asked["model"], *options(asked), "--paths", 3, "--json").stdout
    )
    strongest = found["paths"]["paths"]
    assert len(strongest) == 3
    assert strongest[0]["edges"][-1]["query"] == asked["position"]
    whole = sum(row["share"] for row in found["tokens"])
    assert found["paths"]["total"] == pytest.approx(whole, rel=1e-12)
    shown = run("attribute", asked["model"], *options(asked), "--paths", 3).stdout
    assert f"model.layers.1.self_attn to {asked['position']}" in shown
    assert "these paths +" in shown


def test_text_names_tokens(run, only_object):
    from dsf.models import folder

    text = ("--text", "What is thy name?", "--target", " I", "--json")
    found = only_object(run("attribute", folder("text_mamba"), *text).stdout)
    assert found["tokens"][-1]["token"] == "?"
    assert found["target"] == "the logit of ' I'"
    assert found["error"] < 1e-10


def test_the_edge_that_carries_the_answer_is_cut(run, asked, only_object):
    edge = f"cut layers=*.1.self_attn query={asked['position']} key={asked['key']}"
    done = run("intervene", asked["model"], *options(asked), "--edit", edge, "--json")
    found = only_object(done.stdout)
    assert found["edits"] == [
        {"edit": "Cut", "layer": ["*.1.self_attn"], "query": 22, "key": asked["key"]}
    ]
    assert found["edited"] == ["model.layers.1.self_attn"]
    assert found["clean"][0]["id"] == asked["target"]
    assert found["changed"][0]["id"] != asked["target"]
    effect = found["effect"]
    assert effect["clean"] == pytest.approx(logit_difference(asked), rel=1e-4)
    assert effect["effect"] == pytest.approx(effect["changed"] - effect["clean"])
    shown = run("intervene", asked["model"], *options(asked), "--edit", edge).stdout
    assert f"effect {effect['effect']:+.4g}" in shown


def test_a_map_comes_from_another_run(run, asked, only_object):
    edit = ("--edit", "map-from layers=*.1.self_attn")
    model = ("intervene", asked["model"], "--ids", "1 17 2 18 1", *edit)
    same = only_object(run(*model, "--other-ids", "1 17 2 18 1", "--json").stdout)
    assert same["changed"][0] == same["clean"][0] | {
        "probability": pytest.approx(same["clean"][0]["probability"])
    }
    other = only_object(run(*model, "--other-ids", "2 17 1 18 1", "--json").stdout)
    assert other["changed"][0] != other["clean"][0]


def test_every_head_has_a_run_of_its_own_and_a_file_keeps_them(run, asked, only_object, tmp_path):
    sweep = ("intervene", asked["model"], *options(asked), "--sweep", "--each", "layers,heads")
    edit = ("--edit", "ablate layers=0:2 heads=0,1", "--resume", tmp_path / "new" / "sweep.jsonl")
    found = only_object(run(*sweep, *edit, "--json").stdout)
    assert found["made"] == len(found["runs"]) == 4
    assert found["clean"] == pytest.approx(logit_difference(asked), rel=1e-4)
    for number, each in enumerate(found["runs"]):
        layer, head = divmod(number, 2)
        assert each["edits"] == [{"edit": "Ablate", "layer": layer, "heads": head}]
        alone = ("--edit", f"ablate layers={layer} heads={head}")
        one = only_object(
            run("intervene", asked["model"], *options(asked), *alone, "--json").stdout
        )
        assert each["effect"] == pytest.approx(one["effect"]["effect"], rel=1e-4)
        assert each["changed"] == pytest.approx(one["effect"]["changed"], rel=1e-4)
    again = only_object(run(*sweep, *edit, "--json").stdout)
    assert (again["made"], again["runs"]) == (0, found["runs"])
    shown = run(*sweep, *edit, "--top", 2).stdout
    strongest = max(found["runs"], key=lambda each: abs(each["effect"]))
    assert f"{strongest['effect']:+.4g}" in shown
    assert "4 runs, strongest first; all of them were in the file" in shown
    other = run(*sweep, "--edit", "ablate layers=0:2 heads=1,0", *edit[2:])
    assert other.exit_code == 2
    assert "is of another list of edits. Name another file" in other.stderr


def test_heads_are_named_with_a_control(run, asked, only_object):
    """Pairs of key and value, then the keys again: the last layer reads what followed each."""
    pairs = [1, 17, 2, 18, 3, 19, 4, 20, 5, 21]
    ids = " ".join(map(str, [*pairs, 3, 1, 5, 2, 4]))
    model = ("heads", asked["model"], "--ids", ids)
    found = only_object(run(*model, "--json").stdout)
    induction = next(row for row in found["strongest"] if row["score"] == "induction")
    assert induction["layer"] == "model.layers.1.self_attn"
    assert induction["value"] > 0.8
    assert induction["control"] < 0.3
    shown = run(*model).stdout
    assert f"induction: model.layers.1.self_attn head {induction['head']} (" in shown


def test_a_random_sequence_comes_twice(run, checkpoint, only_object):
    found = only_object(run("heads", checkpoint, "--random-repeat", 6, "--json").stdout)
    assert {row["head"] for row in found["heads"]} == {0, 1}
    assert len(found["heads"]) == 2 * 2 * 5
    assert all(row["value"] is not None for row in found["heads"])


def test_a_model_is_compared_with_itself_and_on_two_inputs(run, checkpoint, only_object):
    model = ("compare", checkpoint, checkpoint, "--ids", "1 2 3 4")
    same = only_object(run(*model, "--align", "--json").stdout)
    assert same["flips"] == 0
    assert [pair["heads"] for pair in same["pairs"]] == [[0, 1], [0, 1]]
    distances = [row["first"] for row in same["records"] if row["quantity"] == "map_distance"]
    assert max(distances) == pytest.approx(0, abs=1e-7)
    other = run(*model, "--other-ids", "4 3 2 1", "--no-verdicts")
    assert other.exit_code == 0, other.output
    assert "distance of maps" in other.stdout
    assert "0, 0" not in other.stdout


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        ("attribute", ["--target", "1", "--position", "9"], "--position"),
        ("attribute", ["--target", "99"], "--target"),
        ("intervene", ["--edit", "ablate layers=7"], "layers: 7"),
        ("intervene", ["--edit", "ablate layers=1 heads=9"], "heads: 9"),
        ("intervene", ["--edit", "state-from layers=1 token=1", "--other-ids", "1 2"], "state"),
        ("heads", ["--layers", "7"], "layers: 7"),
    ],
)
def test_what_does_not_suit_the_model_is_usage(run, checkpoint, command, given, words):
    done = run(command, checkpoint, "--ids", "1 2 3", *given)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(f"dsf {command}: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["attribute", "intervene", "heads", "compare", "state"])
def test_help_reads_like_a_guide(run, command):
    shown = " ".join(run(command, "--help").output.split())
    assert f"Example: dsf {command} " in shown
    for word in ("--json", "--text", "--ids"):
        assert word in shown


def test_the_help_lists_every_edit_and_what_each_takes_is_typed(run):
    from dsf.cli.intervene import typed_edit
    from dsf.interventions import edits

    shown = run("intervene", "--help").output
    typed = {line.split()[0] for line in shown.splitlines() if " layers=" in line}
    plain = {word.replace("-", "") for word in typed}
    assert plain >= {kind.lower() for kind in edits.KINDS}
    for kind in (edits.RoundState(0, bits=4), edits.Window(0, width=4), edits.Reduce(0, 4, 4),
                 edits.Protect(0, key=4, from_=4, until=4), edits.StateFrom(0, 4)):  # fmt: skip
        record = kind.to_json()
        words = " ".join(f"{name}={value}" for name, value in record.items() if name != "edit")
        read = typed_edit(f"{record['edit']} {words}").to_json()
        assert {name: read[name] for name in record} == {**record, "layer": [0]}


@pytest.mark.parametrize("bits", ["4", "int8", "bfloat16"])
def test_states_are_rounded_as_typed(run, bits):
    edit = ("--edit", f"round-state layers=0 bits={bits}", "--json")
    done = run("intervene", models.folder("mamba2"), "--ids", "1 2 3", *edit)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("words", ["round-state layers=0 bits=nope", "round-state layers=0 bits=1"])
def test_a_type_of_states_that_is_not_known_is_refused_early(run, words):
    done = run("intervene", models.folder("mamba2"), "--ids", "1 2 3", "--edit", words)
    assert (done.exit_code, "'bits' must be" in done.stderr) == (2, True), done.output


@pytest.mark.parametrize(
    "words", [("attribute", "--target", "\n"), ("intervene", "--edit", "ablate layers=1 heads=2")]
)
def test_a_token_of_a_line_feed_is_shown_as_python_writes_it(run, only_object, words):
    pytest.importorskip("transformers")
    call = (words[0], models.folder("text_llama"), "--text", "And all our", *words[1:])
    shown = run(*call).stdout
    assert r"'\n'" in shown
    assert r"\\n" not in shown
    found = only_object(run(*call, "--json").stdout)
    tokens = found.get("probabilities") or {row["token"] for row in found["clean"]}
    assert "\n" in tokens


def test_a_target_that_breaks_the_tokenizer_is_tried_by_the_child(run, tmp_path):
    """A target, and another prompt, are read by the child process as the prompt is."""
    folder = shutil.copytree(models.folder("text_llama"), tmp_path / "model")
    file = folder / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "((qq)+)+z"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pre_tokenizer": split}))
    long, prompt = "q" * 400, ("--text", "to be")
    for words in (
        ("attribute", folder, *prompt, "--target", long),
        ("attribute", folder, *prompt, "--target", "a", "--against", long),
        ("intervene", folder, *prompt, "--edit", "cut layers=0 heads=0", "--target", long),
    ):
        done = run(*words)
        assert done.exit_code != 0
        assert "its tokenizer cannot be read" in done.output
        assert "PanicException" in done.output


def test_edges_are_counted_by_gradient_where_that_is_asked_for(run, checkpoint, only_object):
    asked = ("attribute", checkpoint, "--ids", "1 2 3 4", "--target", "3", "--json")
    held = only_object(run(*asked).stdout)
    done = run(*asked, "--by", "gradient", "--agreement")
    assert done.exit_code == 0, done.output
    found = only_object(done.stdout)
    assert held["agreement"] is None
    assert found["agreement"]["gradient"] > 0.5
    assert found["edges"] != held["edges"]
    assert all("integrated" in edge for edge in found["edges"] if "share" in edge)


def test_layers_and_heads_are_options_of_the_commands(run, asked, only_object):
    chosen = ("--layers", "1", "--heads", "0", "--json")
    edges = only_object(run("attribute", asked["model"], *options(asked), *chosen).stdout)["edges"]
    assert {edge["layer"] for edge in edges} == {"model.layers.1.self_attn"}
    cut = ("--edit", "ablate layers=*")
    few = only_object(run("intervene", asked["model"], *options(asked), *cut, *chosen).stdout)
    cut = ("--edit", "ablate layers=1 heads=0", "--json")
    one = only_object(run("intervene", asked["model"], *options(asked), *cut).stdout)
    assert few["effect"] == one["effect"]
    done = run("audit", asked["model"], "--ids", "1 2 3", *("--dtype", "bfloat16"), *chosen[:2])
    assert (done.exit_code, "other layers" in done.stdout) == (0, True)
