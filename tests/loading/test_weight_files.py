"""Safetensors and NumPy files that lie about what they hold."""

import copy
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dsf.loading import LoadError, read_tensors
from dsf.loading.tensor_files import all_finite


def safetensors(path, header, data=b""):
    """A file with any header at all; bytes are taken as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_honest_safetensors(tmp_path):
    saved = {
        "a.b": torch.randn(2, 3, dtype=torch.float64),
        "c": torch.arange(4),
        "d": torch.ones(0),
    }
    save_file(saved, tmp_path / "x.safetensors")
    read = read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == saved.keys()
    assert all(torch.equal(read[name], saved[name]) for name in saved)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": entry([2**20, 2**20], 0, 4)}, b"\0" * 4, "header and the data disagree"),
        ({"a": entry([2**62, 4], 0, 0)}, b"", "no list of counts"),
        ({"a": entry([1], 0, 400)}, b"\0" * 4, "cut short: it has 4 bytes .* header tells of 400"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"\0" * 4, "disagree"),
        ({"a": entry([1], 0, 4, "OBJECT")}, b"\0" * 4, "described as .*OBJECT"),
        ({"a": entry([1], 0, 4)}, b"\0" * 400, "disagree"),
        (b'{"a": NaN}', b"", "NaN is not a number"),
        (b"[" * 300_000, b"", "nested deeper"),
    ],
    ids=["shape", "2^62", "offsets", "overlap", "dtype", "rest", "nan", "deep"],
)
def test_lying_headers(tmp_path, header, data, words):
    with pytest.raises(LoadError, match=words):
        read_tensors(safetensors(tmp_path / "x.safetensors", header, data))


@pytest.mark.parametrize("length", [2**62, 2**64 - 1, 17 * 1024**2, 100])
def test_a_header_longer_than_the_file_or_the_limit(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(LoadError, match=f"header claims {length} bytes in a file of 10"):
        read_tensors(path)


def test_a_large_header_in_a_large_file(tmp_path):
    path = safetensors(tmp_path / "x.safetensors", b"{" + b" " * 17 * 1024**2 + b"}")
    with pytest.raises(LoadError, match="at most 16777216 are read"):
        read_tensors(path)


def test_too_many_tensors(tmp_path):
    header = {str(place): {} for place in range(100_001)}
    with pytest.raises(LoadError, match="lists 100001 tensors"):
        read_tensors(safetensors(tmp_path / "x.safetensors", header))


def test_short_files(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"abc")
    with pytest.raises(LoadError, match="in a file of 3"):
        read_tensors(tmp_path / "x.safetensors")


def npy(shape, dtype="<f8", data=b"", order=False):
    """An ``.npy`` file with any header at all."""
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": order, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">i4"),
        np.array(3.5, dtype=np.float32),
        np.zeros((0, 4)),
        np.array([True, False]),
    ],
    ids=["rows", "columns", "big-endian", "scalar", "empty", "bool"],
)
def test_honest_arrays(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "y.npz", a=array, b=array + 1)
    assert np.array_equal(read_tensors(tmp_path / "x.npy")["x"].numpy(), array)
    read = read_tensors(tmp_path / "y.npz")
    assert list(read) == ["a", "b"]
    assert np.array_equal(read["b"].numpy(), array + 1)


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(LoadError, match="holds 'object', and only plain numbers are read"):
        read_tensors(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy((2**40,), data=b"\0" * 8), "gives shape .* 8796093022208 bytes, but the file has 8"),
        (npy((2,), data=b"\0" * 8), "the header gives shape"),
        (npy((1,), data=b"\0" * 16), "the header gives shape"),
        (npy((-1, -1), data=b"\0" * 8), "the header gives shape"),
        (npy((1,), dtype="<U2", data=b"\0" * 8), "only plain numbers"),
        (npy((1,), dtype=[("a", "<f8")], data=b"\0" * 8), "only plain numbers"),
        (npy((1,), dtype="<f16", data=b"\0" * 16), "save it as float64"),
        (b"\x93NUMPY\x07\x00", "no array header"),
        (b"text", "no array header"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "no array header"),
    ],
    ids=["large", "short", "long", "-1", "text", "record", "f16", "version", "other", "deep"],
)
def test_lying_arrays(tmp_path, content, words):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(LoadError, match=words):
        read_tensors(tmp_path / "x.npy")


def test_a_compressed_bomb(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(2_000_000))
    assert (tmp_path / "x.npz").stat().st_size < 20_000
    with pytest.raises(LoadError, match=r"'a.npy' claims 16000128 bytes in .* bombs do"):
        read_tensors(tmp_path / "x.npz")


def test_arrays_that_were_saved_compressed(tmp_path):
    weights = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    np.savez_compressed(tmp_path / "x.npz", a=weights, bias=np.zeros(3))
    read = read_tensors(tmp_path / "x.npz")
    assert torch.equal(read["a"], torch.from_numpy(weights))
    assert torch.equal(read["bias"], torch.zeros(3, dtype=torch.float64))


def test_a_compressed_array_that_claims_another_size(tmp_path):
    """The directory understates the member; the array's own header and its bytes must agree."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy((1000,), data=bytes(range(250)) * 32))
        archive.infolist()[0].file_size = 300
    with pytest.raises(LoadError, match=r"damaged|the header gives shape"):
        read_tensors(path)


def test_an_unusual_compression(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy((2,), data=b"\0" * 16))
    with pytest.raises(LoadError, match=r"'a\.npy' is .* by an unusual method"):
        read_tensors(path)


def test_members_that_share_their_bytes(tmp_path):
    """The directory points many times at one member, so the sizes add up to more than the file."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy((1000,), data=b"\0" * 8000))
        first = archive.infolist()[0]
        for name in ("b.npy", "c.npy"):
            twin = copy.copy(first)
            twin.filename = name
            archive.filelist.append(twin)
    with pytest.raises(LoadError, match="members claim 24384 bytes in a file of"):
        read_tensors(path)


def test_a_member_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", npy((1,), data=b"\0" * 8))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", npy((1,), data=b"\1" * 8))
    with pytest.raises(LoadError, match=r"'a\.npy' appears twice"):
        read_tensors(tmp_path / "x.npz")


def test_names_are_shown_without_their_effects(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("\x1b[31m\u202e.npy", b"text")
    with pytest.raises(LoadError, match=r"\\x1b\[31m\\u202e") as caught:
        read_tensors(tmp_path / "x.npz")
    assert "\x1b" not in str(caught.value)


def test_damaged_members(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(10))
    content = (tmp_path / "x.npz").read_bytes().replace(np.ones(2).tobytes(), b"\0" * 16, 1)
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(LoadError, match="damaged"):
        read_tensors(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("name", "words"),
    [("x.txt", "ending '.txt' is none of"), ("none.npy", "there is no such file")],
)
def test_other_files(tmp_path, name, words):
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(LoadError, match=words):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_finite(dtype, bad):
    tensor = torch.ones(3, 4, dtype=dtype)
    assert all_finite(tensor)
    tensor[2, 3] = complex(0.0, bad) if dtype.is_complex else bad
    assert not all_finite(tensor)


def test_finite_where_there_is_nothing_to_be_infinite():
    assert all_finite(torch.ones(0))
    assert all_finite(torch.arange(3))
    assert not all_finite(torch.tensor([float("nan"), 1.0]).to(torch.float8_e5m2))
