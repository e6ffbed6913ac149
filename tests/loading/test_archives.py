"""Torch archives: honest ones are read as they were saved, crafted ones are refused."""

import collections
import io
import os
import pickle
import sys
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsf.loading import LoadError, archives, child_processes, read_tensors
from dsf.loading.archive_reader.pickle_machine import Machine, Refused
from tests.loading.crafting import Refers, crafted, read, rewritten, saved


def with_drawn_weights():
    """A table with every kind of entry that checkpoints have."""
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    numbers = {
        str(dtype): torch.arange(4).to(dtype)
        for dtype in (
            *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128),
            *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
        )
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    return {
        "numbers": numbers,
        "module": module.state_dict(),
        "views": [weight, weight.t(), weight[1:, 2], weight[::2]],
        "parameter": torch.nn.Parameter(weight.double()),
        "scalar": torch.tensor(2.5),
        "none": torch.ones(0, 3),
        "settings": {"size": torch.Size([1]), "dtype": torch.float32, "rate": 1e-3, "big": 2**70},
        "flags": (True, None, "text"),
    }


def flattened(value, path=()):
    if isinstance(value, torch.Tensor):
        return {".".join(path): value}
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list | tuple):
        items = enumerate(value)
    return {
        k: v for key, archives in items for k, v in flattened(archives, (*path, str(key))).items()
    }


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_was_saved_is_read(tmp_path, protocol):
    path = tmp_path / "x.pt"
    torch.save(with_drawn_weights(), path, pickle_protocol=protocol)
    expected, found = flattened(with_drawn_weights()), read(path)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].stride() == value.stride()
        assert found[name].tolist() == value.tolist()


def test_a_single_tensor_and_shared_memory(tmp_path):
    assert read(saved(tmp_path / "x.pt", torch.ones(2)))["tensor"].tolist() == [1.0, 1.0]
    weight = torch.ones(2, 3)
    found = read(saved(tmp_path / "y.pt", {"a": weight, "b": weight.t()}))
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()


def test_only_when_asked(tmp_path):
    with pytest.raises(LoadError, match=r"are pickles; convert .* allow_pickle_archive=True"):
        read_tensors(saved(tmp_path / "x.pt", {"a": torch.ones(1)}))


def test_a_pickle_runs_nothing(tmp_path):
    """Opened once with the unpickler, to be sure that the attack works; then with ours."""
    attack = {"a": Refers(os.mkdir, str(tmp_path / "ran"))}
    path = crafted(tmp_path / "x.pt", attack)
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("x/data.pkl"))
    (tmp_path / "ran").rmdir()
    with pytest.raises(LoadError, match=r"names 'posix.mkdir'|names 'nt.mkdir'") as caught:
        read(path)
    assert "if you trust it, convert it to safetensors" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_and_the_old_format(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.ones(1)}, tmp_path / "y.pt", _use_new_zipfile_serialization=False)
    for name in ("x.bin", "y.pt"):
        with pytest.raises(LoadError, match="not a zip archive"):
            read(tmp_path / name)


def test_a_compressed_bomb(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.zeros(2_000_000)})
    rewritten(path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    assert torch.load(path, weights_only=True)["a"].numel() == 2_000_000
    with pytest.raises(LoadError, match="is compressed or encrypted, which can hide any size"):
        read(path)


def nest(depth):
    value = torch.ones(1)
    for _ in range(depth):
        value = [value]
    return value


def shared(levels):
    """Two to the power of ``levels`` paths lead to one list."""
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: nest(40), "too many tensors, or nests them too deep"),
        (lambda: shared(30), "too many tensors, or nests them too deep"),
        (lambda: {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, "appears twice or is too long"),
        (lambda: {"a" * 2000: torch.ones(1)}, "appears twice or is too long"),
        (lambda: {"a": 1}, "holds no tensors"),
        (lambda: {"a": collections.Counter()}, "names 'collections.Counter'"),
    ],
    ids=["deep", "shared", "twice", "long", "none", "other"],
)
def test_tables_that_are_not_tables(tmp_path, value, words):
    with pytest.raises(LoadError, match=words):
        read(saved(tmp_path / "x.pt", value()))


def test_an_archive_that_contains_itself(tmp_path):
    loop = {}
    loop["again"] = loop
    with pytest.raises(LoadError, match="too many tensors, or nests them too deep"):
        read(saved(tmp_path / "x.pt", loop))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replace": {"byteorder": b"big"}}, "big-endian"),
        ({"replace": {"data.pkl": b"\x80\x02"}}, "opcodes are not valid"),
        ({"replace": {"data.pkl": b""}}, "opcodes are not valid"),
        ({"replace": {"data.pkl": b"\x80\x02I1\n."}}, "uses the opcode INT"),
        ({"replace": {"data.pkl": b"\x80\x02(cos\nsystem\no."}}, "names 'os.system'"),
        ({"replace": {"data.pkl": b"\x80\x02K\x01K\x02\x86R."}}, "opcodes are not valid"),
        ({"replace": {"data.pkl": b"\x80\x02K\x01)R."}}, "calls 'a value'"),
        ({"replace": {"data.pkl": b"\x80\x02K\x01)\x81."}}, "makes an object"),
        ({"replace": {"data.pkl": b"\x80\x02K\x01}b."}}, "sets the state"),
        ({"replace": {"data.pkl": b"\x80\x02K\x01Q."}}, "not a storage"),
        ({"replace": {"data.pkl": b"\x80\x02c__torch__\nM\n)\x81."}}, "names '__torch__.M'"),
        ({"add": {"more/data.pkl": b""}}, None),
        ({"add": {"../y/data.pkl": b""}}, None),
    ],
)
def test_crafted_programs(tmp_path, change, words):
    path = rewritten(saved(tmp_path / "x.pt", {"a": torch.ones(1)}), **change)
    if words is None:
        assert read(path)["a"].tolist() == [1.0]
    else:
        with pytest.raises(LoadError, match=words):
            read(path)


def test_two_roots(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(1)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y/data.pkl", b"")
    with pytest.raises(LoadError, match=r"no archive of torch\.save"):
        read(path)


def test_damaged_numbers(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.full((9,), 0.7)})
    content = path.read_bytes()
    spoiled = content.replace(torch.full((9,), 0.7).numpy().tobytes(), bytes(36))
    path.write_bytes(spoiled)
    with pytest.raises(LoadError, match="damaged"):
        read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no such limits there")
def test_memory_and_time_of_the_child_are_limited(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(1)})
    many = b"\x80\x02" + b"]" * 1_000_000
    rewritten(path, replace={"data.pkl": many})
    with pytest.raises(LoadError, match="MemoryError"):
        archives.archive_inventory(
            path, "x/data.pkl", torchscript=False, bytes_of_memory=80 * 1024**2
        )
    rewritten(path, replace={"data.pkl": many * 8})
    with pytest.raises(LoadError, match=r"stopped \('code -\d+'\)"):
        archives.archive_inventory(path, "x/data.pkl", torchscript=False, seconds=1)


def test_a_child_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(child_processes, "_START", str(tmp_path / "sleep.py"))
    monkeypatch.setattr(child_processes, "_GRACE", 0)
    (tmp_path / "sleep.py").write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(LoadError, match="took too long"):
        archives.archive_inventory(tmp_path, "x/data.pkl", torchscript=False, seconds=0)


def test_a_module_is_made_without_arguments():
    with pytest.raises(Refused, match="neither a dictionary nor a module"):
        Machine(torchscript=True).follow(b"\x80\x02c__torch__\nM\nK\x01\x85\x81.")


def program(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    with zipfile.ZipFile(stream) as archive:
        return archive.read("archive/data.pkl")


HONEST = program(with_drawn_weights())


@given(st.integers(0, len(HONEST) - 1), st.binary(min_size=0, max_size=4), st.integers(0, 8))
def test_any_change_is_followed_or_refused(place, inserted, removed):
    """Whatever the bytes say, the machine makes plain data or refuses; no other error comes out."""
    changed = HONEST[:place] + inserted + HONEST[place + removed :]
    try:
        made = Machine(torchscript=False).follow(changed)
    except Refused:
        return
    assert not callable(made)
