"""Tensors in torch archives that are not plain, or do not fit the numbers that are there."""

import zipfile

import pytest
import torch

from dsf.loading import LoadError
from tests.loading.crafting import Stored, crafted, read, rewritten, saved, tensor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (lambda: torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "_rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "_rebuild_qtensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "_rebuild_nested"),
        (lambda: torch.ones(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (lambda: torch.ones(3).as_subclass(Marked), "_rebuild_from_type_v2"),
        (lambda: torch.masked.masked_tensor(torch.ones(2), torch.ones(2) > 0), "_rebuild"),
    ],
    ids=["sparse", "csr", "quantised", "nested", "meta", "subclass", "masked"],
)
def test_tensors_that_are_not_plain(tmp_path, value, name):
    path = saved(tmp_path / "x.pt", {"a": value()})
    with pytest.raises(LoadError, match=f"{name}.*not a plain one"):
        read(path)


class Marked(torch.Tensor):
    """A subclass."""


def test_a_sparse_tensor_that_points_outside(tmp_path):
    """torch reads this one, and the first operation on it touches memory that is not its own."""
    inside = torch.sparse_coo_tensor([[2]], [1.0], (3,), check_invariants=True)
    path = saved(tmp_path / "x.pt", inside)
    number = (2).to_bytes(8, "little")
    with zipfile.ZipFile(path) as archive:
        holds = [name for name in archive.namelist() if archive.read(name) == number]
    rewritten(path, replace={holds[0].partition("/")[2]: (2**40).to_bytes(8, "little")})
    with pytest.raises(LoadError, match="_rebuild_sparse_tensor"):
        read(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (tensor(shape=(2**20, 2**20), stride=(0, 0)), "repeats elements"),
        (tensor(shape=(3, 2), stride=(1, 1)), "repeats elements"),
        (tensor(shape=(2, 2), stride=(1, 1)), "repeats elements"),
        (tensor(shape=(4, 1), stride=(0, 1)), "repeats elements"),
        (tensor(shape=(5,)), "reaches 20 bytes"),
        (tensor(offset=1), "reaches 20 bytes"),
        (tensor(shape=(2, 2), stride=(3, 1)), "reaches 20 bytes"),
        (tensor(shape=(2**61,), stride=(2**61,)), "reaches"),
        (tensor(size=5), "claims 20, but the archive has 16"),
        (tensor(size=3, shape=(2,)), "claims 12, but the archive has 16"),
        (tensor(offset=-1), "not a list of counts"),
        (tensor(shape=(-4,)), "not a list of counts"),
        (tensor(stride=(-1,)), "not a list of counts"),
        (tensor(shape=(2**70,)), "not a list of counts"),
        (tensor(shape=(4.0,)), "not a list of counts"),
        (tensor(shape=(True,)), "not a list of counts"),
        (tensor(shape=(0, 2**61, 2**61), stride=(1, 1, 1)), "not a list of counts"),
        (tensor(shape=(2, 2)), "not a list of counts"),
        (tensor(shape=(1,) * 40, stride=(1,) * 40), "not a list of counts"),
        (tensor(shape=7), "opcodes are not valid"),
        (tensor(storage=Stored(4, "1")), "'x/data/1' is missing"),
        (tensor(storage=Stored(4, "../data.pkl")), "'x/data/../data.pkl' is missing"),
        (tensor(storage="none"), "no storage of numbers"),
        (tensor(more=({"conj": True},)), "conjugated or negated"),
    ],
)
def test_tensors_that_do_not_fit_their_storage(tmp_path, value, words):
    with pytest.raises(LoadError, match=words):
        read(crafted(tmp_path / "x.pt", {"a": value}))


@pytest.mark.parametrize(
    "value",
    [
        tensor(),
        tensor(shape=(2, 2), stride=(1, 2)),
        tensor(shape=(2, 1), stride=(3, 0)),
        tensor(shape=(), stride=(), offset=3),
        tensor(shape=(0, 9), stride=(0, 0)),
        tensor(more=({},)),
    ],
    ids=["all", "columns", "apart", "scalar", "empty", "no marks"],
)
def test_views_at_the_border_that_do_fit(tmp_path, value):
    data = torch.arange(4.0).numpy().tobytes()
    path = crafted(tmp_path / "x.pt", {"a": value}, data=data)
    expected = torch.load(path, weights_only=True)["a"]
    assert read(path)["a"].tolist() == expected.tolist()
    assert read(path)["a"].shape == expected.shape
