"""The least that an inspection costs is timed on modules that run once each, in float64."""

import pytest
import torch

from benchmarks.least import mixers_in_float64

transformers = pytest.importorskip("transformers")


def test_every_mixer_runs_once_in_float64_on_what_it_was_given():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids, kept = torch.arange(2, 12)[None], {}
    paths = [f"model.layers.{k}.self_attn" for k in range(2)]

    def keep(module, _given, output):
        kept.setdefault(module.layer_idx, output[0])

    for path in paths:
        model.get_submodule(path).register_forward_hook(keep)
    again = mixers_in_float64(model, paths, lambda: model(ids, use_cache=False))
    ran = []

    def note(module, _given, output):
        if type(module).__name__ == "LlamaAttention":
            ran.append(output[0])

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    for _ in range(2):
        again()
    handle.remove()
    assert len(ran) == 4
    assert {part.dtype for part in ran} == {torch.float64}
    for number in range(2):
        torch.testing.assert_close(ran[number].float(), kept[number])
    assert {part.dtype for part in model.parameters()} == {torch.float32}
