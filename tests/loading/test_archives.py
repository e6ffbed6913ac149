"""Torch archives: honest ones are read as they were saved, crafted ones are refused."""

import collections
import os
import pickle
import warnings
import zipfile

import pytest
import torch

from dsf.loading import LoadError
from dsf.loading.building import read_archive
from tests.loading.crafting import Refers, Stored, crafted, rewritten, saved, tensor


def drawn_weights():
    """A table with every type of number that checkpoints have, and views."""
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    kinds = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64)
    return {
        **{str(dtype): torch.arange(4).to(dtype) for dtype in kinds},
        "rows": weight,
        "columns": weight.t(),
        "part": weight[1:, 2],
        "parameter": torch.nn.Parameter(weight.double()),
        "scalar": torch.tensor(2.5),
        "none": torch.ones(0, 3),
    }


def test_what_was_saved_is_read(tmp_path):
    saved(tmp_path / "x.bin", drawn_weights())
    expected, found = drawn_weights(), read_archive(tmp_path / "x.bin")
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].tolist() == value.tolist()


def test_a_pickle_runs_nothing(tmp_path):
    """Opened once with the unpickler, to be sure that the attack works; then with ours."""
    path = crafted(tmp_path / "x.bin", {"a": Refers(os.mkdir, str(tmp_path / "ran"))})
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("x/data.pkl"))
    (tmp_path / "ran").rmdir()
    with pytest.raises(LoadError, match=r"x.bin"):
        read_archive(path)
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_and_the_old_format(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.ones(1)}, tmp_path / "y.bin", _use_new_zipfile_serialization=False)
    for name in ("x.bin", "y.bin"):
        with pytest.raises(LoadError, match=name):
            read_archive(tmp_path / name)


def test_a_compressed_bomb(tmp_path):
    path = saved(tmp_path / "x.bin", {"a": torch.zeros(2_000_000)})
    rewritten(path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    assert torch.load(path, weights_only=True)["a"].numel() == 2_000_000
    with pytest.raises(LoadError, match="compressed"):
        read_archive(path)


def test_code_that_comes_with_parameters(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "x.bin")
    with pytest.raises(LoadError, match=r"x\.bin"):
        read_archive(tmp_path / "x.bin")


def recursive():
    loop = {}
    loop["again"] = loop
    return loop


def sparse_outside():
    """torch reads this one; the first operation on it touches memory that is not its own."""
    return torch.sparse_coo_tensor([[2]], [1.0], (3,), check_invariants=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "value",
    [
        lambda: torch.ones(1),
        lambda: {1: torch.ones(1)},
        lambda: {"a": [torch.ones(1)]},
        lambda: {"a": 1},
        lambda: {"a": collections.Counter()},
        recursive,
        lambda: {"a": sparse_outside()},
        lambda: {"a": torch.eye(3).to_sparse_csr()},
        lambda: {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
        lambda: {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
        lambda: {"a": torch.empty(2, device="meta")},
        lambda: {"a": torch.masked.masked_tensor(torch.ones(2), torch.ones(2) > 0)},
        lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()},
    ],
    ids=["tensor", "number", "list", "text", "object", "loop", "sparse", "csr", "quantised",
         "nested", "meta", "masked", "conjugated"],
)  # fmt: skip
def test_what_is_no_table_of_plain_tensors(tmp_path, value):
    with pytest.raises(LoadError, match=r"x\.bin"):
        read_archive(saved(tmp_path / "x.bin", value()))


@pytest.mark.parametrize(
    "value",
    [
        tensor(shape=(2**20, 2**20), stride=(0, 0)),
        tensor(shape=(5, 1), stride=(0, 1)),
        tensor(shape=(5,)),
        tensor(offset=1),
        tensor(shape=(2, 2), stride=(3, 1)),
        tensor(size=5),
        tensor(size=3, shape=(2,)),
        tensor(size=2**40, shape=(2,)),
        tensor(offset=-1),
        tensor(shape=(-4,)),
        tensor(stride=(-1,)),
        tensor(shape=(2**70,)),
        tensor(shape=(2, 2)),
        tensor(shape=7),
        tensor(storage=Stored(4, "1")),
        tensor(storage=Stored(4, "../data.pkl")),
        tensor(storage="none"),
    ],
)
def test_tensors_that_do_not_fit_their_storage(tmp_path, value):
    with pytest.raises(LoadError, match=r"x\.bin"):
        read_archive(crafted(tmp_path / "x.bin", {"a": value}))


@pytest.mark.parametrize(
    "value",
    [
        tensor(),
        tensor(shape=(2, 2), stride=(1, 2)),
        tensor(shape=(), stride=(), offset=3),
        tensor(shape=(4, 1), stride=(0, 1)),
        tensor(shape=(0, 9), stride=(0, 0)),
    ],
    ids=["all", "columns", "scalar", "repeated", "empty"],
)
def test_views_that_fit(tmp_path, value):
    data = torch.arange(4.0).numpy().tobytes()
    path = crafted(tmp_path / "x.bin", {"a": value}, data=data)
    expected = torch.load(path, weights_only=True)["a"]
    assert torch.equal(read_archive(path)["a"], expected)


@pytest.mark.parametrize("program", [b"", b"\x80\x02", b"\x80\x02I1\n.", b"(cos\nsystem\no."])
def test_damaged_programs(tmp_path, program):
    path = rewritten(saved(tmp_path / "x.bin", {"a": torch.ones(1)}), replace={"data.pkl": program})
    with pytest.raises(LoadError, match=r"x\.bin"):
        read_archive(path)


def test_two_roots(tmp_path):
    path = saved(tmp_path / "x.bin", {"a": torch.ones(1)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y/data.pkl", b"")
    with pytest.raises(LoadError, match=r"x\.bin"):
        read_archive(path)
