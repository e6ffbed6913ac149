"""The ledger names the layer, stage and token that made a run differ."""

import copy
import dataclasses
import json

import pytest
import torch

import dsf
from dsf.attribution.two_runs import common
from dsf.models import folder
from tests.inspection.families.tiny_models import FAMILIES, build
from tests.inspection.families.tiny_models import inputs as tiny_inputs
from tests.interventions.planted_faults import DECODED, FAULTS, PADDED, planted
from tests.interventions.recurrent_classifier import VECTORS, RecurrentClassifier

transformers = pytest.importorskip("transformers")
TOKENS, DECODE, PAD = 40, 6, 5
_MODELS = {}


def model_of(family):
    if family not in _MODELS:
        from dsf.loading import load_model

        _MODELS[family] = load_model(folder(f"text_{family}")).model
    return _MODELS[family]


def inputs_of(run, tokens=TOKENS):
    ids = torch.randint(1000, (1, tokens), generator=torch.Generator().manual_seed(1))
    if run == PADDED:
        mask = torch.ones_like(ids)
        mask[:, :PAD] = 0
        return {"input_ids": ids, "attention_mask": mask}
    return {"input_ids": ids, "decode": DECODE} if run == DECODED else {"input_ids": ids}


def layer_of(path):
    return path.removesuffix(".norm") if path.endswith("linear_attn.norm") else path


BY_DAY = ("mamba2 step rounded", "qwen3_next state rounded", "llama cache dropped")
CASES = [
    pytest.param(
        fault[0],
        *fault[2:],
        id=f"{fault[0]} {fault[1]}",
        marks=() if f"{fault[0]} {fault[1]}" in BY_DAY else pytest.mark.nightly,
    )
    for fault in FAULTS
]


@pytest.mark.parametrize(("family", "path", "plant", "run", "stages", "first"), CASES)
def test_a_planted_fault_is_named_first(family, path, plant, run, stages, first):
    model = model_of(family)
    fork = planted(model, path, plant, torch.float32)
    ledger = dsf.audit(model, **inputs_of(run), suspect=fork)
    culprit = ledger.rows[0]
    assert culprit.accused
    assert culprit.layer == layer_of(path)
    assert culprit.stage in stages
    assert culprit.first == first
    assert abs(ledger.residual) <= 0.01 * abs(ledger.actual)
    assert str(ledger).startswith(ledger.sentence)


ALREADY_SO = {
    *("mamba step rounded", "mamba2 step rounded", "qwen3_next rate rounded"),
    *("llama keys rounded", "qwen3_next keys rounded"),
}
"""Plants that change no number of a model in bfloat16, which rounds there itself."""
HIDDEN = {"mamba2 state rounded"}
"""In bfloat16 the scan of transformers rounds what it writes: an own of 1.2e-3, this one 1.7e-3."""


@pytest.mark.nightly
@pytest.mark.parametrize(("family", "path", "plant", "run", "stages", "first"), CASES)
def test_a_planted_fault_is_named_first_in_bfloat16(
    family, path, plant, run, stages, first, request
):
    """Among the rounding of everything else."""
    name = request.node.callspec.id
    model, given = model_of(family), inputs_of(run)
    fork = planted(model, path, plant, torch.bfloat16)
    if name in ALREADY_SO:
        half, ids = copy.deepcopy(model).to(torch.bfloat16), given["input_ids"]
        with torch.no_grad():
            assert torch.equal(*(each(ids, use_cache=False).logits for each in (fork, half)))
        return
    ledger = dsf.audit(model, **given, suspect=fork)
    culprit = ledger.rows[0]
    assert abs(ledger.residual) <= 0.01 * abs(ledger.actual)
    if name in HIDDEN:
        assert ledger.is_healthy
        return
    assert (culprit.accused, culprit.layer, culprit.first) == (True, layer_of(path), first)
    assert culprit.stage in stages


def test_a_small_factor_on_all_tokens_is_told_from_rounding():
    """An epsilon lowers a norm by less than a bfloat16 number can show: its mean does."""
    model, ids = model_of("llama"), inputs_of("", 32)["input_ids"]
    fork = copy.deepcopy(model).to(torch.bfloat16)
    path = "model.layers.1.post_attention_layernorm"
    fork.get_submodule(path).variance_epsilon = 1e-2
    row = dsf.audit(model, input_ids=ids, suspect=fork).rows[0]
    assert (row.accused, row.layer, row.stage, row.first) == (True, path, "norm", 0)
    assert 0 < row.expected < row.own < torch.finfo(torch.bfloat16).eps / 4


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "qwen3_next",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("mamba", "mamba2")),
    ],
)
def test_a_healthy_model_accuses_nobody(family):
    for options in ({"dtype": "bfloat16"}, {"dtype": torch.bfloat16, "decode": DECODE}):
        ledger = dsf.audit(model_of(family), **inputs_of("", 24), **options)
        assert ledger.is_healthy, ledger.sentence
        assert abs(ledger.residual) <= 0.01 * abs(ledger.actual)


DECODES_OTHERWISE = {"mamba2", "nemotron_h", "zamba2", "minimax", "glm5_next"}
"""Their decode is another computation than their prefill: ``docs/prefill_decode.md`` says which."""
NOT_DECODED = {"recurrent_gemma", "rwkv"}
"""Families that return no cache, or that transformers cannot continue."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name == "jamba" else pytest.mark.nightly) for name in FAMILIES],
)
def test_no_family_is_accused_by_its_own_number_type(family):
    """Jamba's router casts what is far from the reference in a healthy run as well."""
    model = build(family)
    ids = tiny_inputs(24)["input_ids"][:1]
    for decode in (None, DECODE):
        if decode is None or family not in DECODES_OTHERWISE | NOT_DECODED:
            ledger = dsf.audit(model, input_ids=ids, dtype="bfloat16", decode=decode)
            assert ledger.is_healthy, ledger.sentence


def test_the_share_of_the_head_is_its_own_rounding_and_the_change_that_of_the_logits():
    model, ids = model_of("llama"), inputs_of("", 12)["input_ids"]
    ledger = dsf.audit(model, input_ids=ids, dtype="bfloat16", target=5, against=6)
    wide = copy.deepcopy(model).double()
    half = transformers.AutoModelForCausalLM.from_pretrained(
        folder("text_llama"), dtype=torch.bfloat16
    )
    head = {}
    half.lm_head.register_forward_hook(
        lambda _m, given, out: head.update(given=given[0][0, -1], out=out[0, -1])
    )
    with torch.no_grad():
        plain, after = (each(ids, use_cache=False).logits[0, -1].double() for each in (wide, half))
    change, own = after - plain, head["out"] - wide.lm_head.weight.detach() @ head["given"].double()
    (row,) = [row for row in ledger.rows if row.layer == "lm_head"]
    assert ledger.actual == pytest.approx(float(change[5] - change[6]), rel=1e-4)
    assert ledger.total == pytest.approx(sum(row.share for row in ledger.rows))
    assert row.share == pytest.approx(float(own[5] - own[6]), rel=1e-6)
    assert row.cumulative == pytest.approx(ledger.total)  # it ran last


class TimesFromToken(torch.nn.Module):
    """A head whose results are larger from some token on."""

    def __init__(self, head, factor, token):
        super().__init__()
        self.weight, self.factor, self.token = head.weight, factor, token

    def forward(self, x):
        out = x @ self.weight.T
        late = torch.arange(out.shape[1])[:, None] >= self.token
        return torch.where(late, out * self.factor, out)


@pytest.mark.parametrize(("factor", "accused"), [(1 + 2**-6, True), (1 + 2**-9, False)])
def test_own_expected_and_first_token_are_those_of_a_loop(factor, accused):
    """Thresholds from products in float64, token by token, without the library."""
    model, ids = model_of("llama"), inputs_of("", 12)["input_ids"]
    fork = copy.deepcopy(model).to(torch.bfloat16)
    fork.lm_head = TimesFromToken(fork.lm_head, factor, 7)
    ledger = dsf.audit(model, input_ids=ids, suspect=fork)
    found, weight = [], model.lm_head.weight.detach().double()
    for run in (fork, copy.deepcopy(model).to(torch.bfloat16)):
        seen = {}
        run.lm_head.register_forward_hook(
            lambda _m, given, out, seen=seen: seen.update(given=given[0], out=out)
        )
        with torch.no_grad():
            run(ids, use_cache=False)
        exact = [weight @ token.double() for token in seen["given"][0]]
        apart = [out.double() - one for out, one in zip(seen["out"][0], exact, strict=True)]
        size = sum(float(one.square().sum()) for one in exact)
        own = (sum(float(one.square().sum()) for one in apart) / size) ** 0.5
        typical = size / len(exact)
        sizes = [max(float(one.square().sum()), typical) for one in exact]
        tokens = [(float(a.square().sum()) / b) ** 0.5 for a, b in zip(apart, sizes, strict=True)]
        found.append((own, tokens))
    (own, tokens), (well, usual) = found
    limit = max(2 * well, 0.5 * torch.finfo(torch.bfloat16).eps)
    (row,) = [row for row in ledger.rows if row.layer == "lm_head"]
    assert row.own == pytest.approx(own, rel=1e-9)
    assert row.expected == pytest.approx(limit, rel=1e-9)
    assert row.accused == (own > limit) == accused
    beyond = [at for at, each in enumerate(tokens) if each > max(1.5 * max(usual), limit / 2)]
    assert row.first == (beyond[0] if accused else None)
    assert not accused or beyond[0] == 7


def test_heads_that_carry_a_share_are_listed():
    model, ids = model_of("llama"), inputs_of("", 12)["input_ids"]
    fork = copy.deepcopy(model)
    width = fork.model.layers[1].self_attn.head_dim
    with torch.no_grad():  # rows of the query's projection are those of its heads
        fork.model.layers[1].self_attn.q_proj.weight[width : 2 * width] *= 1.1
    ledger = dsf.audit(model, input_ids=ids, suspect=fork)
    row = ledger.rows[0]
    assert (row.layer, row.stage, row.heads) == ("model.layers.1.self_attn", "projection", (1,))
    assert ledger.to_json()["rows"][0]["heads"] == [1]


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_state_in_another_type_is_named(kind):
    ledger = dsf.audit(model_of("mamba2"), **inputs_of("", 16), state_dtype=kind)
    states = [row for row in ledger.rows if row.accused]
    assert {row.stage for row in states} == {"state"}
    assert {row.layer for row in states} == {f"backbone.layers.{k}.mixer" for k in range(5)}
    assert abs(ledger.residual) <= 0.01 * abs(ledger.actual)


def test_two_equal_runs_have_no_rows():
    ledger = dsf.audit(model_of("llama"), **inputs_of("", 8), dtype=torch.float64)
    assert abs(ledger.actual) < 1e-12
    assert ledger.is_healthy


def test_another_engine_is_read_from_its_outputs(tmp_path):
    from safetensors.torch import save_file

    model, ids = model_of("llama"), inputs_of("", 10)["input_ids"]
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.update(
                {name: (out[0] if isinstance(out, tuple) else out).clone()}
            )
        )
        for name in ("model.layers.0", "model.layers.1.self_attn", "model.layers.1")
    ]
    spoil = model.model.layers[1].mlp.register_forward_hook(lambda _m, _i, out: out * 1.05)
    with torch.no_grad():
        found["logits"] = model(ids).logits
    for hook in (*hooks, spoil):
        hook.remove()
    save_file({name: part.contiguous() for name, part in found.items()}, tmp_path / "a.safetensors")
    ledger = dsf.audit(model, input_ids=ids, recorded=tmp_path)
    assert ledger.rows[0].layer.startswith("model.layers.1")
    assert abs(ledger.residual) <= 0.01 * abs(ledger.actual)
    del found["logits"]
    save_file(found, tmp_path / "a.safetensors")
    with pytest.raises(dsf.inspection.InspectionError, match="logits"):
        dsf.audit(model, input_ids=ids, recorded=tmp_path)


def test_a_ledger_in_other_forms(tmp_path):
    ledger = dsf.audit(model_of("llama"), **inputs_of("", 8), dtype="bfloat16")
    assert json.loads(json.dumps(ledger.to_json()))["rows"][0]["layer"] == ledger.rows[0].layer
    assert list(ledger.to_pandas()["stage"]) == [row.stage for row in ledger.rows]
    ledger.save(tmp_path / "ledger.xml")
    assert 'failures="0"' in (tmp_path / "ledger.xml").read_text()
    assert ledger.figure().axes
    assert dsf.load(ledger.save(tmp_path / "ledger")) == ledger
    part = ledger.of_layers([1, "lm_head"])
    assert {row.layer.split(".")[2] for row in part.rows if "." in row.layer} == {"1"}
    assert sum(row.share for row in part.rows) == pytest.approx(ledger.total)
    with pytest.raises(dsf.inspection.InspectionError, match="layers"):
        ledger.of_layers(7)
    part = dsf.audit(model_of("llama"), **inputs_of("", 8), dtype="bfloat16", heads=1)
    assert sum(row.share for row in part.rows) == pytest.approx(ledger.total)
    whole = {(row.layer, row.stage): row for row in ledger.rows}
    headed = [row for row in part.rows if row.by_head]
    assert headed
    assert all(row.share == whole[row.layer, row.stage].by_head[1] for row in headed)
    with pytest.raises(dsf.inspection.InspectionError, match="heads"):
        ledger.of_heads(7)
    headless = dataclasses.replace(ledger, rows=tuple(r for r in ledger.rows if not r.by_head))
    with pytest.raises(dsf.inspection.InspectionError, match="heads"):
        headless.of_heads(0)
    with pytest.raises(ValueError, match=r"path.*\.json.*\.png"):
        ledger.save(tmp_path / "ledger.doc")
    for name in ("new/ledger.json", "new/ledger.png"):
        assert ledger.save(tmp_path / name).stat().st_size


def test_a_ledger_whose_writing_fails_leaves_the_old_file(tmp_path, monkeypatch):
    ledger = dsf.audit(model_of("llama"), **inputs_of("", 4), dtype="bfloat16")
    path = ledger.save(tmp_path / "ledger.txt")
    before = path.read_text()
    monkeypatch.setattr(type(path), "write_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ledger.save(path)
    assert path.read_text() == before


def test_an_accusation_is_not_lost_with_the_heads_that_are_left_out():
    """Of a layer without the chosen head nothing is listed, and it may be the culprit."""
    whole = dsf.audit(model_of("llama"), **inputs_of("", 8), dtype="bfloat16")
    row = next(row for row in whole.rows if row.by_head)
    few = dataclasses.replace(row, layer="few", by_head=row.by_head[:2], accused=True, own=1.0)
    part = dataclasses.replace(whole, rows=(*whole.rows, few)).of_heads(2)
    assert not part.is_healthy
    assert (part.accused[0].layer, part.accused[0].own) == ("other heads", 1.0)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"suspect": "decoded"}, "suspect"),
        ({"decode": 0}, "decode"),
        ({"decode": 99}, "decode"),
        ({"dtype": "float8"}, "dtype"),
        ({"state_dtype": "int9"}, "state_dtype"),
        ({"state_dtype": "int8", "decode": 1}, "state_dtype"),
        ({"chunk": 0}, "chunk"),
        ({"recorded": "nowhere", "decode": 1}, "recorded"),
    ],
)
def test_wrong_options_are_refused(options, name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        dsf.audit(model_of("llama"), input_ids=torch.arange(4)[None], **options)


def test_the_predicted_token_is_compared_with_the_one_that_is_named():
    given = {"input_ids": torch.arange(1, 6)[None], "dtype": "bfloat16"}
    model = model_of("llama")
    with torch.no_grad():
        logits = model(given["input_ids"]).logits[0, -1]
    best, last = int(logits.argmax()), int(logits.argmin())
    ledger = dsf.audit(model, **given, against=last)
    assert ledger.reference == pytest.approx(float(logits[best] - logits[last]), rel=1e-4)


def test_a_model_of_two_sequences_is_not_decoded():
    transformers = pytest.importorskip("transformers")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=32, decoder_start_token_id=0, **sizes)
    model, ids = transformers.T5ForConditionalGeneration(config).eval(), torch.arange(3, 9)[None]
    with pytest.raises(dsf.inspection.InspectionError, match="'decode'"):
        dsf.audit(model, input_ids=ids, decoder_input_ids=ids[:, :4], decode=2)
    with pytest.raises(dsf.inspection.InspectionError, match="'blocks' expected"):
        dsf.attribute(model, input_ids=ids, decoder_input_ids=ids[:, :4])


def test_a_model_without_chunks_or_states_has_none_to_change():
    for options in ({"chunk": 4}, {"state_dtype": "bfloat16"}):
        with pytest.raises(dsf.inspection.InspectionError, match=f"'{next(iter(options))}'"):
            dsf.audit(model_of("llama"), input_ids=torch.arange(4)[None], **options)


def test_states_of_layers_of_torch_are_rounded():
    """An LSTM is one module, whose layers have names of their own."""
    ledger = dsf.audit(RecurrentClassifier(), VECTORS, state_dtype="bfloat16")
    assert {row.layer for row in ledger.accused} == {"layers.0", "layers.1"}
    assert abs(ledger.residual) <= 0.01 * abs(ledger.actual)


def test_inference_mode_makes_no_difference():
    given = {"input_ids": torch.arange(6)[None], "dtype": "bfloat16"}
    ledger = dsf.audit(model_of("llama"), **given)
    with torch.inference_mode():
        assert dsf.audit(model_of("llama"), **given).total == pytest.approx(ledger.total)


def test_where_a_run_begins_to_overflow_is_named():
    model, ids = model_of("llama"), torch.arange(3, 11)[None]
    fork = copy.deepcopy(model)
    late = torch.arange(8)[:, None] >= 5
    fork.model.layers[1].mlp.up_proj.register_forward_hook(
        lambda _m, _i, out: torch.where(late, torch.inf, out)
    )
    with pytest.raises(dsf.inspection.InspectionError) as error:
        dsf.audit(model, input_ids=ids, suspect=fork)
    assert "model.layers.1.mlp, feed-forward, token 5" in str(error.value)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "name"),
    [
        (RecurrentClassifier(), (VECTORS,), {"decode": 2}, "'decode'"),
        (RecurrentClassifier(), (VECTORS,), {"suspect": RecurrentClassifier(4)}, "sizes"),
        (RecurrentClassifier(1), (VECTORS,), {"dtype": "bfloat16"}, "'target'"),
        (RecurrentClassifier(), (VECTORS[..., :5],), {"dtype": "bfloat16"}, "could not be run"),
        (RecurrentClassifier(), (VECTORS,), {"dtype": "bfloat16", "heads": 0}, "heads"),
    ],
)
def test_what_does_not_suit_a_model_is_refused(model, inputs, options, name):
    with pytest.raises((ValueError, dsf.inspection.InspectionError), match=name):
        dsf.audit(model, *inputs, **options)


def test_common_subsequences_are_the_longest():
    def longest(one, other):
        table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                best = max(table[i][j + 1], table[i + 1][j])
                table[i + 1][j + 1] = table[i][j] + 1 if a == b else best
        return table[-1][-1]

    rng = torch.Generator().manual_seed(0)
    for _ in range(100):
        one, other = (
            torch.randint(3, (int(torch.randint(9, (), generator=rng)),), generator=rng).tolist()
            for _ in range(2)
        )
        pairs = common(one, other)
        assert all(one[i] == other[j] for i, j in pairs)
        assert pairs == sorted(pairs)
        assert len(pairs) == longest(one, other)


def tiny_gpt2(**changes):
    sizes = {"vocab_size": 29, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **changes)).eval()


@pytest.mark.parametrize("decode", [None, 3])
def test_samples_and_tokens_on_one_axis_are_told_apart(decode):
    """GPT-2 multiplies matrices of all tokens of all samples, call by call."""
    model, ids = tiny_gpt2(), torch.arange(3, 21).reshape(2, 9)
    ledger = dsf.audit(model, input_ids=ids, dtype="bfloat16", decode=decode)
    assert ledger.is_healthy, ledger.sentence
    assert abs(ledger.residual) <= 0.01 * abs(ledger.actual)
    for row in ledger.rows:
        assert sum(row.tokens) == pytest.approx(row.share, rel=1e-6, abs=1e-12)
    fork = copy.deepcopy(model)
    fork.transformer.h[1].mlp.c_fc.register_forward_hook(
        lambda _m, _i, out: out + (torch.arange(3, 21).reshape(2, 9, 1) == 16) * 0.1
    )
    if decode is None:
        row = dsf.audit(model, input_ids=ids, suspect=fork).rows[0]
        assert (row.layer, row.accused, row.first) == ("transformer.h.1.mlp", True, 4)


def test_a_step_with_one_channel_has_the_operations_of_the_whole_run():
    """Rotary positions of two channels negate one number of one token."""
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPTNeoXConfig(vocab_size=29, num_hidden_layers=1, **sizes)
        model = transformers.GPTNeoXForCausalLM(config).eval()
    ledger = dsf.audit(model, input_ids=torch.arange(9)[None], decode=8)
    assert ledger.is_healthy, ledger.sentence
