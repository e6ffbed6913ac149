"""Plans for a smaller cache: predictions, budgets, runs and generation against dense softmax."""

import copy
from itertools import product
from math import log1p

import pytest
import torch
from torch.nn.functional import cross_entropy

import dsf
from dsf.inspection.errors import InspectionError
from dsf.interventions.kept_keys import KeptForm
from dsf.interventions.linearisation import LinearisationPlan
from dsf.loading import load_model
from dsf.models import folder, recall
from tests.inspection.families.tiny_models import build, inputs

transformers = pytest.importorskip("transformers")
FORMS = ("Window(3)", "SinkWindow(2, 4)", "SinkWindowState(2, 4, 3)", "SinkWindowState(0, 5, 2)")


def recalling(samples=2):
    """The embedded Llama, sequences, and labels at the answers alone."""
    drawn = recall.draw(torch.Generator().manual_seed(0), samples)
    labels = drawn.targets.roll(1, dims=1)
    labels[:, 0] = recall.SILENT
    return load_model(folder("llama")).model.eval(), drawn.tokens, labels


@pytest.fixture(scope="module")
def shared():
    """A random Llama in float64, two groups of two heads in each of two layers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=19,
        hidden_size=24,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        initializer_range=0.3,
    )
    model = transformers.LlamaForCausalLM(config).double().eval()
    ids = torch.randint(0, 19, (2, 14), generator=torch.Generator().manual_seed(1))
    return model, ids, dsf.linearise(model, input_ids=ids, bytes=1.0, candidates=FORMS, rounds=0)


def dense_map(query, key, form, features, group):
    """The map of a form, row by row: written from its definition."""
    steps = key.shape[-2]
    scores = torch.full((*query.shape[:-1], steps), -torch.inf, dtype=query.dtype)
    for row, column in product(range(steps), range(steps)):
        if column > row:
            continue
        if form.window is None or row - column < form.window or column < form.sinks:
            scores[..., row, column] = (query[..., row, :] * key[..., column, :]).sum(-1)
        elif features is not None:
            anchors = features.anchors[group]
            far = (key[..., column, None, :] - anchors).square().sum(-1)
            chosen = far.argmin(dim=-1)
            met = (query[..., row, :] * anchors[chosen]).sum(-1)
            age = row - form.window - column
            late = features.log_scale[group, chosen] + features.log_decay[group] * age
            scores[..., row, column] = met + late
    return scores.softmax(dim=-1)


def dense_logits(model, ids, plan, share=1.0, maps=None, *, grad=False):
    """Logits with every map part of the way from the whole one to that of the plan."""
    forms = {}
    for row in plan.rows:
        key = f"{row.layer} {row.head} {row.form}"
        forms[row.layer, row.head] = (KeptForm.parse(row.form), plan.states.get(key))
    names = {id(module): name for name, module in model.named_modules()}

    def attention(module, query, key, value, _, scaling, **__):
        name = names[id(module)]
        heads = query.shape[1] // key.shape[1]
        parts = []
        for head in range(query.shape[1]):
            group = head // heads
            one, other = query[:, head] * scaling, key[:, group]
            form, features = forms[name, group]
            whole = dense_map(one, other, KeptForm(), None, 0)
            small = dense_map(one, other, form, features, 0)
            if maps is not None:
                maps[name, head] = (whole, small)
            parts.append(((1 - share) * whole + share * small) @ value[:, group])
        return torch.stack(parts, dim=2), None

    before = model.config._attn_implementation
    transformers.AttentionInterface.register("dense_reference", attention)
    model.config._attn_implementation = "dense_reference"
    try:
        with torch.set_grad_enabled(grad):
            return model(input_ids=ids, use_cache=False).logits
    finally:
        model.config._attn_implementation = before
        transformers.AttentionInterface._global_mapping.pop("dense_reference")


def mixed(plan):
    """A plan with a different form in every group."""
    rows = []
    for number, candidates in enumerate(plan.candidates):
        by_form = {row.form: row for row in candidates}
        rows.append(by_form[(*FORMS, "keep")[number % 4]])
    return LinearisationPlan(tuple(rows), plan.candidates, plan.tokens, plan.states)


def test_the_acceptance_calls_of_the_embedded_llama():
    model, ids, labels = recalling()
    plan = dsf.linearise(model, input_ids=ids, labels=labels, harm=0.02)
    assert len(plan.rows) == 4
    assert {row.head for row in plan.rows} == {0, 1}
    assert plan.bytes < plan.whole_bytes
    assert plan.predicted <= 0.02
    assert plan.measured <= 0.02
    small = plan.applied(model)
    assert type(small) is type(model)
    with torch.no_grad():
        logits, whole = small(input_ids=ids).logits, model(input_ids=ids).logits
    loss = [
        cross_entropy(each[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item()
        for each in (whole, logits)
    ]
    assert loss[1] - loss[0] == pytest.approx(log1p(plan.measured), abs=1e-5)
    made = small.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert made.shape == (2, 35)
    assert "measured" in repr(plan)


@pytest.mark.parametrize("form", FORMS)
def test_predictions_equal_derivatives_of_gates_in_a_dense_run(shared, form):
    model, ids, plan = shared
    for number in (0, 3):
        rows = [next(row for row in rows if row.form == "keep") for rows in plan.candidates]
        rows[number] = next(row for row in plan.candidates[number] if row.form == form)
        alone = LinearisationPlan(tuple(rows), plan.candidates, plan.tokens, plan.states)
        harms = []
        for text in ids:
            gates = torch.zeros(len(text), 1, dtype=torch.float64, requires_grad=True)
            logits = dense_logits(model, text[None], alone, gates, grad=True)
            loss = cross_entropy(logits[0, :-1], text[1:])
            (slopes,) = torch.autograd.grad(loss, gates)
            second = (len(text) - 1) * slopes.square().sum() / 2
            harms.append(abs((slopes.sum() + second).item()))
        expected = sum(harms) / len(harms)
        # its norms run in float32
        assert rows[number].predicted == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_run_equals_dense_softmax_and_distances_bound_its_maps(shared):
    model, ids, plan = shared
    plan, maps = mixed(plan), {}
    expected = dense_logits(model, ids, plan, maps=maps)
    with torch.no_grad():
        assert torch.allclose(plan.applied(model)(input_ids=ids).logits, expected, atol=1e-10)
    first = {row.head: row for row in plan.rows if ".0." in row.layer}
    for (layer, head), (whole, small) in maps.items():
        if ".0." in layer:
            apart = ((whole - small).abs().sum(-1) / 2).amax().item()
            group = first[head // 2]
            assert apart <= group.distance
            rest = [maps[layer, other] for other in group.heads]
            largest = max(((a - b).abs().sum(-1) / 2).amax().item() for a, b in rest)
            assert group.distance == pytest.approx(largest, abs=1e-9)


def test_steps_and_chunks_equal_the_run_and_bytes_are_those_of_the_plan(shared):
    model, ids, plan = shared
    plan = mixed(plan)
    small = plan.applied(model)
    with torch.no_grad():
        whole = small(input_ids=ids, use_cache=True)
        cache = small(input_ids=ids[:, :6], use_cache=True).cache
        parts = [small(input_ids=ids[:, :6]).logits]
        for first, last in ((6, 7), (7, 8), (8, 11), (11, 12), (12, 14)):
            parts.append(small(input_ids=ids[:, first:last], cache=cache).logits)
    assert torch.allclose(torch.cat(parts, dim=1), whole.logits, atol=1e-10)
    assert cache.get_seq_length() == 14
    assert whole.cache.bytes == cache.bytes == 2 * plan.bytes
    cache.reset()
    with torch.no_grad():
        again = small(input_ids=ids, cache=cache).logits
    assert torch.equal(again, whole.logits)


def test_generation_equals_the_run_token_by_token(shared):
    model, ids, plan = shared
    small = mixed(plan).applied(model)
    expected = ids
    for _ in range(6):
        with torch.no_grad():
            logits = small(input_ids=expected, use_cache=False).logits
        expected = torch.cat([expected, logits[:, -1:].argmax(-1)], dim=1)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    for more in ({}, {"prefill_chunk_size": 5}, {"use_cache": False}):
        assert torch.equal(small.generate(input_ids=ids, **options, **more), expected)
    beams = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "eos_token_id": None}
    cached = small.generate(input_ids=ids, **beams)
    assert torch.equal(cached, small.generate(input_ids=ids, use_cache=False, **beams))


def test_states_count_many_keys_in_bfloat16():
    model = load_model(folder("llama")).model.bfloat16().eval()
    ids = torch.randint(0, 33, (1, 700), generator=torch.Generator().manual_seed(0))
    forms = ["SinkWindowState(0, 4, 1)"]
    plan = dsf.linearise(model, input_ids=ids, candidates=forms, bytes=0.05, rounds=0)
    small = plan.applied(model)
    with torch.no_grad():
        caches = [small(input_ids=ids[:, :698], use_cache=True).cache]
        for token in (698, 699):
            small(input_ids=ids[:, token : token + 1], cache=caches[0])
    assert caches[0].bytes == plan.bytes
    first = caches[0].layers[0].parts[0]
    kept = torch.arange(696).flip(0) * first.features.log_decay.float()[:, None]
    assert first.tensors["number"][0, :, 0].tolist() == pytest.approx(
        kept.exp().sum(dim=-1).tolist(), rel=1e-3
    )


def test_long_chunks_are_split_without_a_difference(shared, monkeypatch):
    model, ids, plan = shared
    small = mixed(plan).applied(model)
    with torch.no_grad():
        expected = small(input_ids=ids).logits
        monkeypatch.setattr("dsf.interventions.kept_keys.ROWS_AT_ONCE", 4)
        assert torch.allclose(small(input_ids=ids).logits, expected, atol=1e-10)


def test_blocks_of_rows_make_no_difference(shared, monkeypatch):
    model, ids, plan = shared
    monkeypatch.setattr("dsf.interventions.kept_keys.BLOCK_ENTRIES", 60)
    again = dsf.linearise(model, input_ids=ids, bytes=1.0, candidates=FORMS, rounds=0)
    for rows, others in zip(plan.candidates, again.candidates, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert row.predicted == pytest.approx(other.predicted, rel=1e-6, abs=1e-12)


def test_a_plan_has_the_least_harm_for_its_bytes(shared):
    _, _, plan = shared
    for share in (0.3, 0.5, 0.8):
        chosen = plan.within(bytes=share)
        assert chosen.bytes <= share * plan.whole_bytes
        harm = sum(row.predicted for row in chosen.rows)
        for rows in product(*plan.candidates):
            if sum(row.bytes for row in rows) <= chosen.bytes:
                assert harm <= sum(row.predicted for row in rows) + 1e-12


def test_the_model_is_not_changed_and_shares_its_weights(shared):
    model, ids, plan = shared
    before = {name: each.clone() for name, each in model.state_dict().items()}
    implementation, use_cache = model.config._attn_implementation, model.config.use_cache
    small = mixed(plan).applied(model)
    small.generate(input_ids=ids, max_new_tokens=2)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert (model.config._attn_implementation, model.config.use_cache) == (
        implementation,
        use_cache,
    )
    pairs = zip(model.parameters(), small.parameters(), strict=True)
    assert all(one is other for one, other in pairs)


def test_save_and_load(shared, tmp_path):
    model, ids, plan = shared
    plan = mixed(plan)
    plan.save(tmp_path)
    again = LinearisationPlan.load(tmp_path)
    assert (again.rows, again.candidates) == (plan.rows, plan.candidates)
    with torch.no_grad():
        logits = [each.applied(model)(input_ids=ids).logits for each in (plan, again)]
    assert torch.equal(*logits)
    weights = sum(each.numel() for each in model.parameters())
    assert (tmp_path / "plan.safetensors").stat().st_size < 8 * weights


def test_only_the_softmax_layers_of_a_hybrid_are_planned():
    model = load_model(folder("qwen3_next")).model.eval()
    ids = recalling()[1]
    plan = dsf.linearise(model, input_ids=ids, bytes=0.5, rounds=0)
    assert {row.layer for row in plan.rows} == {
        name for name, module in model.named_modules() if name.endswith("self_attn")
    }
    small = plan.applied(model)
    with torch.no_grad():
        whole = small(input_ids=ids, use_cache=False).logits
        cache = small(input_ids=ids[:, :-1], use_cache=True).cache
        last = small(input_ids=ids[:, -1:], cache=cache).logits
    assert torch.allclose(last, whole[:, -1:], atol=1e-4)


def test_texts_through_a_tokenizer_are_cut_at_their_padding():
    loaded = load_model(folder("text_llama"))
    texts = ["To be, or not to be, that is the question", "Out, out, brief candle!"]
    plan = dsf.linearise(loaded.model, texts, tokenizer=loaded.tokenizer, bytes=1.0, rounds=0)
    alone = [
        dsf.linearise(loaded.model, text, tokenizer=loaded.tokenizer, bytes=1.0, rounds=0,
                      candidates=["Window(4)"])
        for text in texts
    ]  # fmt: skip
    for rows, *others in zip(plan.candidates, *(each.candidates for each in alone), strict=True):
        row = next(row for row in rows if row.form == "Window(4)")
        assert row.predicted == pytest.approx(
            sum(each[0].predicted for each in others) / 2, rel=1e-3
        )


def test_a_figure_and_plain_data(shared):
    _, _, plan = shared
    plan = mixed(plan)
    figure = plan.figure()
    assert figure.axes[0].images[0].get_array().shape == (2, 2)
    assert len(plan.table()) == 4


def test_names_of_forms():
    for name in (*FORMS, "keep", "SinkWindow(4, 128)"):
        assert str(KeptForm.parse(name)) == name
    for name in ("Window(0)", "window(3)", "SinkWindow(3)", "Window(-1)", ""):
        with pytest.raises(ValueError, match="form"):
            KeptForm.parse(name)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "harm"),
        ({"harm": 0.1, "bytes": 100}, "harm"),
        ({"harm": -0.1}, "harm"),
        ({"bytes": 1.5}, "bytes"),
        ({"bytes": 10}, "bytes"),
        ({"bytes": float("nan")}, "bytes"),
        ({"bytes": "half"}, "bytes"),
        ({"harm": "little"}, "harm"),
        ({"harm": 0.1, "candidates": ["Window"]}, "candidates"),
        ({"harm": 0.1, "candidates": "Window(4)"}, "candidates"),
        ({"harm": 0.1, "candidates": [4]}, "candidates"),
        ({"harm": 0.1, "rounds": -1}, "rounds"),
        ({"harm": 0.1, "rounds": 0.5}, "rounds"),
        ({"harm": 0.1, "begin": 3}, "begin"),
        ({"harm": 0.1, "begin": LinearisationPlan((), (), 14)}, "begin"),
        ({"harm": 0.1, "position_ids": torch.arange(14)[None]}, "position_ids"),
    ],
)
def test_wrong_arguments_are_errors(shared, options, name):
    model, ids, _ = shared
    with pytest.raises((TypeError, ValueError), match=f"'{name}'"):
        dsf.linearise(model, input_ids=ids, **{"rounds": 0, **options})


def test_numbers_of_no_tokens_are_explained(shared):
    with pytest.raises(InspectionError, match="input_ids must be numbers from 0 to"):
        dsf.linearise(shared[0], input_ids=torch.tensor([[1, 2, 99]]), harm=0.1)


def test_inference_mode_makes_no_difference(shared):
    model, ids, plan = shared
    with torch.inference_mode():
        again = dsf.linearise(model, input_ids=ids.clone(), bytes=1.0, candidates=FORMS, rounds=0)
    assert again.candidates == plan.candidates


def test_a_layer_with_a_state_beside_its_attention_is_an_error():
    """Its cache holds both, and is not replaced by one of keys and values."""
    model = build("falcon_h1")
    with pytest.raises(InspectionError, match=r"self_attn.*recurrent state"):
        dsf.linearise(model, **inputs(8), bytes=1.0)


def test_a_model_without_softmax_is_an_error():
    model = load_model(folder("mamba")).model
    with pytest.raises(InspectionError, match="softmax attention through"):
        dsf.linearise(model, input_ids=torch.zeros(1, 8, dtype=torch.long), harm=0.1)


def test_padding_foreign_caches_and_cropping_are_errors(shared):
    model, ids, plan = shared
    small = mixed(plan).applied(model)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with pytest.raises(ValueError, match="attention_mask"):
        small(input_ids=ids, attention_mask=mask)
    foreign = model(input_ids=ids, use_cache=True).cache
    with pytest.raises(TypeError, match="cache"):
        small(input_ids=ids[:, :1], cache=foreign)
    cache = small(input_ids=ids, use_cache=True).cache
    with pytest.raises(ValueError, match="crop"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="model"):
        plan.applied(load_model(folder("mamba")).model)
    with pytest.raises(TypeError, match="'model'"):
        plan.applied(None)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers, config.num_key_value_heads = 2, 1
    other = type(model)(config).to(torch.float64)
    with pytest.raises(ValueError, match="groups"):
        plan.applied(other)(input_ids=ids)
