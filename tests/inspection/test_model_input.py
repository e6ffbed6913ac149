"""One grammar of inputs: every form of one input gives the same numbers, or the same error."""

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.inspection import InspectionError
from dsf.loading import load_model
from dsf.models import folder

inputs = pytest.importorskip("docs.building.inputs", reason="needs the checkout")
FORMS, FUNCTIONS, TEXT = inputs.FORMS, inputs.FUNCTIONS, inputs.TEXT
SHORT = "And all our"
MODELS = ("text_llama", "text_mamba2", "text_qwen3_next")


@pytest.fixture(scope="module", params=MODELS)
def loaded(request):
    return load_model(folder(request.param))


def maps(inspection):
    return [layer.map() for layer in inspection]


@pytest.mark.sampled("form")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_every_function_takes_every_form(name, function, form):
    one = load_model(folder(name))
    numbers = one.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    found = FUNCTIONS[function][1]
    args, named = FORMS[form][1](one)
    assert_close(found(*args, **named), found(one.model, input_ids=numbers))


def test_the_page_lists_every_form_and_function():
    ((_, page),) = inputs.pages()
    assert all(f"`dsf.{code}`" in page for code, _ in FORMS.values())
    assert all(f"`dsf.{name}`" in page for name in FUNCTIONS)


def test_texts_of_unequal_length_are_each_as_alone(loaded):
    both = dsf.inspect(loaded.model, [TEXT, SHORT], tokenizer=loaded.tokenizer, exact=True)
    for sample, text in enumerate((TEXT, SHORT)):
        alone = dsf.inspect(loaded.model, text, tokenizer=loaded.tokenizer, exact=True)
        for layer, single in zip(both, alone, strict=True):
            steps = single.map().shape[-1]
            assert_close(layer.map()[sample][..., :steps, :steps], single.map()[0])


def test_generated_tokens_belong_to_the_input(loaded):
    numbers = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    whole = loaded.model.generate(numbers, max_new_tokens=4, do_sample=False)
    found = dsf.inspect(loaded.model, TEXT, tokenizer=loaded.tokenizer, generate=4)
    assert found[0].map().shape[-1] == numbers.shape[1] + 4
    assert_close(maps(found), maps(dsf.inspect(loaded.model, input_ids=whole)))


def test_another_number_type_leaves_the_model_as_it_is(loaded):
    found = dsf.inspect(loaded.model, TEXT, tokenizer=loaded.tokenizer, dtype="float64")
    assert found[0].rounding < 1e-12
    assert {each.dtype for each in loaded.model.parameters()} == {torch.float32}


class Named(torch.nn.Module):
    """A recurrent layer that takes its input by name, or in a mapping of its own."""

    def __init__(self):
        super().__init__()
        self.mixer = torch.nn.GRU(3, 4, batch_first=True)

    def forward(self, signal):
        return self.mixer(signal["x"] if isinstance(signal, dict) else signal)[0]


def test_a_mapping_is_spread_where_the_model_takes_its_names():
    model, signal = Named(), torch.randn(1, 5, 3)
    expected = maps(dsf.inspect(model, signal))
    assert_close(maps(dsf.inspect(model, {"signal": signal})), expected)
    assert_close(maps(dsf.inspect(model, {"x": signal})), expected)


class ByAnyName(Named):
    def forward(self, **given):
        return super().forward(given["signal"])


class InFirstPlace(Named):
    def forward(self, signal, **_options):
        return super().forward(signal)


class InAnyPlace(Named):
    def forward(self, *given, **_options):
        return super().forward(given[0])


def test_a_mapping_is_left_where_the_model_takes_it_in_its_first_place():
    signal = torch.randn(1, 5, 3)
    given = {"x": signal, "_options": signal, "given": signal}
    for kind in (InFirstPlace, InAnyPlace):
        model = kind()
        assert_close(maps(dsf.inspect(model, given)), maps(dsf.inspect(model.mixer, signal)))
    model = ByAnyName()
    found = dsf.inspect(model, {"signal": signal})
    assert_close(maps(found), maps(dsf.inspect(model.mixer, signal)))


WRONG = {
    "text": [(("",), {}), ((["a", ""],), {})],
    "tokenizer": [((TEXT,), {"tokenizer": 3})],
    "dtype": [((TEXT,), {"dtype": "flot"}), ((TEXT,), {"dtype": 3})],
    "messages": [((), {"messages": [{"role": "user", "content": "x"}]})],
    "revision": [((TEXT,), {"revision": "main"})],
    "device": [((TEXT,), {"device": "tpu"}), ((TEXT,), {"device": 3.5})],
    "generate": [
        ((TEXT,), {"generate": 0}),
        ((TEXT,), {"generate": 0.5}),
        (([TEXT, SHORT],), {"generate": 2}),
    ],
    "input_ids": [((TEXT,), {"input_ids": torch.ones(1, 2, dtype=torch.long)})],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_named(name):
    one = load_model(folder("text_llama"))
    for args, named in WRONG[name]:
        with pytest.raises(InspectionError, match=f"'{name}'"):
            dsf.inspect(one.model, *args, **{"tokenizer": one.tokenizer, **named})


@pytest.mark.parametrize("function", [dsf.inspect, dsf.attribute, dsf.intervene, dsf.audit])
def test_a_misspelt_name_is_named_before_the_model_runs(function, monkeypatch):
    """Models of the library take every name and ignore what they do not know."""
    one = load_model(folder("text_llama"))
    monkeypatch.setattr(type(one.model), "__call__", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InspectionError, match=r"^\w+: .*'txt'.*'text'"):
        function(one.model, TEXT, tokenizer=one.tokenizer, txt=SHORT)


def test_two_texts_are_one_too_many():
    with pytest.raises(InspectionError, match="'text'"):
        dsf.inspect(folder("text_llama"), TEXT, text=TEXT)
