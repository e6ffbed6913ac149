"""What a person types becomes numbers, choices and edits, or an error that names the option."""

import math

import pytest
import torch
import typer

from dsf.cli import entry, options
from dsf.cli.early_checks import ModelFacts, counts
from dsf.cli.intervene import OTHER, heat_map, spread, typed_edit
from dsf.cli.options import NumberType, is_empty, place, real, whole
from dsf.cli.terminal import print_heat_map
from dsf.inspection.choice import parsed
from dsf.inspection.results.measurements import QUANTITIES
from dsf.inspection.results.quantities import BY_ROW, MEASURES
from dsf.interventions import edits
from dsf.properties.decided import PROPERTIES
from dsf.properties.names import IF_NOT

SLIPS = ("1_0", "１", "٣", "²", "0x1", "1e", "", " ", "--1", "1 2", "9" * 5000)
PARSERS = {
    options.layer_choice: ("", ",", "3:1", "0:4:0"),
    options.head_choice: ("", "a", "3:1"),
    options.token_ids: ("1 x", "1.5", "1_0", "１ ２", "[1, 2]", "-1", "9" * 20),
    options.real_number("", below=math.inf).parser: ("0", "-1", "inf", "nan", "1_0", "lots"),
    options.real_number("", below=1.0).parser: ("1", "2", "nan"),
    options.whole_number("", least=1, most=5).parser: ("0", "6", "1.0", "1_0", "two"),
    options.device_name: ("gpu", "cuda:", "cpu:999", "cuda:٣"),
    place: ("", "~/a", "~"),
}


@pytest.mark.parametrize(("word", "number"), [("0", 0), ("-3", -3), ("+7", 7), (" 12 ", 12)])
def test_whole_numbers(word, number):
    assert whole(word) == number


@pytest.mark.parametrize("word", [*SLIPS, "1.0", "nan"])
def test_what_is_no_whole_number(word):
    with pytest.raises(ValueError, match=r".*"):
        whole(word)


@pytest.mark.parametrize(("word", "number"), [("-.5", -0.5), ("2.", 2.0), ("inf", math.inf)])
def test_numbers(word, number):
    assert real(word) == number


@pytest.mark.parametrize(
    ("parser", "typed"), [(parser, typed) for parser, words in PARSERS.items() for typed in words]
)
def test_an_option_refuses_and_shows_what_it_got(parser, typed):
    with pytest.raises(typer.BadParameter, match="expected"):
        parser(typed)


def test_options_parse():
    assert options.layer_choice("0:4,*.3.*,-1") == [slice(0, 4), "*.3.*", -1]
    assert options.head_choice("2,0:4") == [2, slice(0, 4)]
    assert options.token_ids("1 2,3") == [1, 2, 3]
    assert options.real_number("", below=1.0).parser("1e-3") == 0.001
    assert options.device_name("cuda:1") == "cuda:1"
    assert str(place("./~a")) == "~a"


def test_layers_and_heads_are_numbers_in_plain_digits_too():
    assert parsed("1_0,٣") == ["1_0", "٣"]
    assert parsed("9" * 5000) == ["9" * 5000]  # Python refuses to read it as a number


def test_empty_ranges():
    assert all(map(is_empty, (slice(3, 1), slice(-1, -2), slice(2, 2), slice(0, 4, 0))))
    assert not any(map(is_empty, (slice(0, -1), slice(1, None), slice(None, 2), 0, "a")))


def test_names_that_need_no_torch_are_those_of_what_they_name():
    assert list(QUANTITIES) == list(MEASURES)
    assert set(MEASURES.values()) >= BY_ROW
    assert list(PROPERTIES) == list(IF_NOT)
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in NumberType)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cut layers=*.3.* heads=2 key=5", edits.Cut(["*.3.*"], heads=[2], key=5)),
        ("Cut layers=0:2,-1 query=1,2", edits.Cut([slice(0, 2), -1], query=[1, 2])),
        ("window layers=1 width=4 renormalise=yes", edits.Window([1], 4, renormalise=True)),
        ("scale layers=1 factor=-0.5", edits.Scale([1], -0.5)),
        ("forget layers='a b' token=3 samples=0:1", edits.Forget(["a b"], 3, samples=slice(0, 1))),
        ("state_from layers=1 token=3", edits.StateFrom([1], 3, OTHER)),
        ("map-from layers=1", edits.MapFrom([1], OTHER)),
        ("mean layers=1 over=other", edits.Mean([1], OTHER)),
        ("reduce layers=1 token=3 order=2", edits.Reduce([1], 2, 3)),
        ("protect layers=1 key=2 from=4 until=9", edits.Protect([1], key=2, from_=4, until=9)),
    ],
)
def test_edits(words, expected):
    assert typed_edit(words) == expected


def test_every_edit_can_be_typed():
    values = {float: "1", int: "2", bool: "no"}
    for name, kind in edits.KINDS.items():
        needed = [each for each in edits.fields(kind) if each.default is edits.MISSING]
        fields = " ".join(f"{each.name}={values.get(each.type, '2')}" for each in needed)
        assert type(typed_edit(f"{name} {fields}")) is kind


def test_an_edit_of_several_things_is_one_for_each():
    layers = [0, "*.2.*", slice(4, 8, 2)]
    runs = spread(edits.Cut(layers, key=3), "layer, key")
    assert [run.layer for run in runs] == [0, "*.2.*", 4, 6]
    assert all(run.key == 3 for run in runs)


LOADING = {"--dtype", "--device", "--revision", "--offline"}
READING = LOADING | {"--layers", "--heads"}
TAKEN = {
    **dict.fromkeys(("inspect", "heads", "check", "state", "compare"), READING),
    **dict.fromkeys(("attribute", "audit", "intervene"), READING),
    "measure": {"--layers", "--heads"},
}


@pytest.mark.parametrize("command", TAKEN)
def test_every_command_that_takes_a_model_has_the_options_of_loading(command):
    found = typer.main.get_command(entry.app).commands[command]
    names = {name for option in found.params for name in option.opts}
    assert TAKEN[command] <= names


def test_the_commands_are_few():
    assert len(entry.COMMANDS) <= 11


def test_a_device_that_is_not_here_is_named(run, checkpoint):
    ids = "heads", checkpoint, "--ids", "1 2 3"
    assert run(*ids, "--device", "cpu").exit_code == 0
    found = run(*ids, "--device", "xpu:77")
    assert found.exit_code == 2
    assert "--device" in found.output


def test_a_layer_or_head_that_the_settings_exclude_is_refused_before_the_run():
    facts = ModelFacts(name="m", **counts({"model_type": "gpt2", "n_layer": 3, "n_head": 2}))
    facts.check_choice([0, -3, "*.9.*", slice(7, 9)], 1)
    for layers, heads, words in (([3], None, "layers"), (-4, None, "layers"), (None, [2], "heads")):
        with pytest.raises(ValueError, match=words):
            facts.check_choice(layers, heads)
    unknown = ModelFacts(name="m", **counts({"model_type": "falcon_h1", "num_hidden_layers": 3}))
    unknown.check_choice([9], [9])  # several mixers in a block


def test_a_position_beyond_the_bytes_of_a_text_is_refused_before_the_tokenizer():
    text = options.Prompt(text="The capital")
    text.check_position(18)
    text.check_position(-19)
    for position in (19, -20):
        with pytest.raises(ValueError, match="--position"):
            text.check_position(position)


def test_a_sweep_over_two_choices_is_a_matrix():
    runs = spread(edits.Ablate([0, 1], heads=[4, 5, 6]), "layers,heads")
    drawn = heat_map(runs, [1.0, 2.0, 3.0, -1.0, -2.0, -6.0])
    assert drawn == ("layer", "heads", ["0", "1"], ["4", "5", "6"], [[1, 2, 3], [-1, -2, -6]])
    assert heat_map(runs[:-1], [0.0] * 5) is None
    assert heat_map(spread(edits.Ablate([0, 1]), "layer"), [1.0, 2.0]) is None


def test_a_heat_map_has_sign_and_size(capsys):
    print_heat_map(["0", "11"], ["4", "15"], [[0.0, 3.0], [-1.0, math.nan]])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown] == [
        ["1"],
        ["4", "5"],
        ["0", ".", "+9"],
        ["11", "-3", "?"],
    ]
