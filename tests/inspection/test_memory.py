"""Memory: told before the run, refused where it is too much, and put on disk where that helps."""

import gc
import mmap
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import dsf
from dsf.evaluate import memory_plan
from dsf.inspection import InspectionMemoryError, memory_forecast
from dsf.inspection.capture import containers
from dsf.inspection.capture.calls import Call, Invocation
from dsf.inspection.capture.containers import DiskStore
from dsf.inspection.results.memory import Forecast
from dsf.models import folder, recall

MODELS = ("mamba", "qwen3_next", "llama")


@pytest.fixture(scope="module")
def prompt():
    return recall.draw(torch.Generator().manual_seed(0), samples=2).tokens


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    from dsf.loading import load_model

    return load_model(folder(request.param)).model


def barely(model, prompt):
    """So little memory that recorded calls and layers go to disk."""
    return float(memory_forecast(model, input_ids=prompt, memory=1e12).peak_on_disk)


def test_what_lies_on_disk_is_the_same_to_the_last_bit(model, prompt, monkeypatch):
    monkeypatch.setattr(containers, "LEAST_BYTES", mmap.ALLOCATIONGRANULARITY)
    plain = dsf.inspect(model, input_ids=prompt)
    stored = dsf.inspect(model, input_ids=prompt, memory=barely(model, prompt))
    assert (plain.forecast.uses_disk, stored.forecast.uses_disk) == (False, True)
    assert all(layer.is_on_disk for layer in stored)
    assert not any("_system" in vars(layer) for layer in stored)
    assert stored.unsupported == plain.unsupported
    for one, other in zip(stored, plain, strict=True):
        assert (one.name, one.formula, one.rounding) == (other.name, other.formula, other.rounding)
        assert type(one.mixer) is type(other.mixer)
        assert torch.equal(one.map(), other.map())
        assert torch.equal(one.signal, other.signal)
        assert torch.equal(one.mixer_map(), other.mixer_map())
        assert torch.equal(one.contribution_norms(), other.contribution_norms())
    assert stored.measure().to_csv() == plain.measure().to_csv()


def test_what_was_recorded_is_free_at_the_end_without_the_collector(model, prompt):
    def recorded():
        return sum(type(each) in (Call, Invocation) for each in gc.get_objects())

    gc.collect()
    before, enabled = recorded(), gc.isenabled()
    gc.disable()
    try:
        inspection = dsf.inspect(model, input_ids=prompt)
        assert recorded() == before
    finally:
        if enabled:
            gc.enable()
    assert all(layer.mixer_map().isfinite().all() for layer in inspection)


def test_some_heads_of_layers_on_disk(model, prompt):
    options = {"layers": -1, "heads": [1]}
    (one,) = dsf.inspect(model, input_ids=prompt, memory=barely(model, prompt), **options)
    (other,) = dsf.inspect(model, input_ids=prompt, **options)
    assert one.heads == (1,)
    assert torch.equal(one.map(), other.map())


def test_a_stored_layer_cannot_be_spoilt(prompt):
    from dsf.loading import load_model

    model = load_model(folder("mamba")).model
    layer = dsf.inspect(model, input_ids=prompt, memory=barely(model, prompt))[0]
    before = layer.map()
    dsf.inspect(model, input_ids=prompt + 0)
    assert torch.equal(layer.map(), before)


def test_too_much_is_refused_before_the_run(model, prompt, monkeypatch):
    def runs(*_, **__):
        raise AssertionError("it ran")

    monkeypatch.setattr(type(model), "forward", runs)
    needed = barely(model, prompt)
    with pytest.raises(InspectionMemoryError, match=r"at most about \d+ tokens"):
        dsf.inspect(model, input_ids=prompt, memory=needed - 1)


def test_a_forecast_by_hand():
    """One Mamba layer: 8 wide, 16 inner channels, 4 states, rank 3."""
    transformers = pytest.importorskip("transformers", reason="needs the hf extra")
    config = transformers.MambaConfig(
        vocab_size=31, hidden_size=8, state_size=4, num_hidden_layers=1, time_step_rank=3
    )
    model = transformers.MambaModel(config)
    found = memory_forecast(model, input_ids=torch.zeros(2, 50, dtype=torch.long), memory=1e9)
    projections = 32 + (3 + 4 + 4) + 16 + 8
    assert found.tokens == 100
    assert found.layers == 1
    assert found.in_float64 == 100 * 8 * (3 * projections + 3 * 16 * 4)
    assert found.run == 100 * 4 * (3 * projections + 3 * 16 * 4 + 4 * 8)
    assert found.recorded == 100 * 4 * (8 + 8)
    twice = memory_forecast(model, input_ids=torch.zeros(4, 50, dtype=torch.long), memory=1e9)
    for part in ("run", "recorded", "in_float64", "rebuilt"):
        assert getattr(twice, part) == 2 * getattr(found, part)
    wide = memory_forecast(model, exact=True, input_ids=torch.zeros(2, 50, dtype=torch.long))
    assert wide.in_float64 == 0
    assert wide.available > 2**20
    assert memory_forecast(nn.Linear(2, 2), torch.zeros(1, 2, 2)) is None


def test_the_length_that_is_named_fits(model, prompt):
    needed = memory_forecast(model, input_ids=prompt.repeat(1, 9), memory=3e8)
    assert needed.fits == (needed.peak_on_disk <= 3e8)
    long = prompt.repeat(1, 2_000_000 // prompt.numel())
    refused = memory_forecast(model, input_ids=long, memory=1e9)
    assert not refused.fits
    shorter = long[:, : refused.longest // 2]
    assert memory_forecast(model, input_ids=shorter, memory=1e9).fits
    assert not memory_forecast(model, input_ids=long[:, : refused.longest], memory=9e8).fits


def test_copies_have_the_bits_and_strides_of_what_they_copy(monkeypatch):
    monkeypatch.setattr(containers, "LEAST_BYTES", mmap.ALLOCATIONGRANULARITY)
    before = set(Path(tempfile.gettempdir()).glob("dsf-*"))
    store, size = DiskStore(), mmap.ALLOCATIONGRANULARITY
    table, shared = torch.randn(size, 6), torch.randn(size, dtype=torch.complex128)
    large = (
        table[1:-1, ::2],
        table.T,
        table[:, 3],
        shared,
        shared.conj(),
        table.bfloat16(),
        table > 0,
    )
    for part in (*large, torch.ones(1, size).expand(1000, size), *map(table.to, (torch.int64,))):
        copy = store.moved(part)
        assert (copy.dtype, copy.stride()) == (part.dtype, part.stride())
        assert torch.equal(copy, part)
        assert copy.data_ptr() != part.data_ptr()
        assert copy.data_ptr() % 64 == 0
    small = torch.empty(0, 3), torch.tensor(7), torch.ones(1, 3).expand(size, 3)
    assert all(store.moved(part) is part for part in small)
    assert set(Path(tempfile.gettempdir()).glob("dsf-*")) == before


def test_a_device_of_its_own_memory_has_no_disk():
    sizes = dict.fromkeys(("run", "recorded", "in_float64", "rebuilt", "kept"), 10**9)
    forecast = partial(Forecast, tokens=9, layers=9, **sizes)
    assert forecast(available=34 * 10**8).uses_disk
    assert not forecast(available=30 * 10**8, has_disk=False).uses_disk
    assert not forecast(available=30 * 10**8, has_disk=False).fits


def test_a_full_disk_is_an_error_with_a_cure(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(InspectionMemoryError, match="TMPDIR"):
        DiskStore().moved(torch.ones(2**20))


def test_the_limits_of_a_process_count(monkeypatch, tmp_path):
    cpu = torch.device("cpu")
    there = memory_plan.free_memory(cpu)
    import resource

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = (taken + 10**6, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit)
    assert memory_plan.free_memory(cpu) <= 10**6 < there
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 500\n")
    monkeypatch.setattr(memory_plan, "GROUP", str(tmp_path))
    assert memory_plan.free_memory(cpu) == 2500
