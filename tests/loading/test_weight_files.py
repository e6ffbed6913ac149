"""Safetensors files that lie about what they hold, and weights that are not finite."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dsf.loading import LoadError
from dsf.loading.building import read_weights


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
    read = read_weights([tmp_path / "x.safetensors"])
    assert read.keys() == saved.keys()
    assert all(torch.equal(read[name], saved[name]) for name in saved)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": entry([2**20, 2**20], 0, 4)}, b"\0" * 4),
        ({"a": entry([2**62, 4], 0, 0)}, b""),
        ({"a": entry([1], 0, 400)}, b"\0" * 4),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"\0" * 4),
        ({"a": entry([1], 0, 4, "OBJECT")}, b"\0" * 4),
        ({"a": entry([1], 0, 4)}, b"\0" * 400),
        (b'{"a": NaN}', b""),
        (b"[" * 300_000, b""),
    ],
    ids=["shape", "2^62", "offsets", "overlap", "dtype", "rest", "nan", "deep"],
)
def test_lying_headers(tmp_path, header, data):
    with pytest.raises(LoadError, match=r"x\.safetensors"):
        read_weights([safetensors(tmp_path / "x.safetensors", header, data)])


@pytest.mark.parametrize(
    "content", [b"abc", b"\xff" * 8 + b"{}", (100).to_bytes(8, "little") + b"{}"]
)
def test_short_files(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match=r"x\.safetensors"):
        read_weights([tmp_path / "x.safetensors"])


def test_too_many_tensors(tmp_path):
    header = {str(place): entry([0], 0, 0) for place in range(100_001)}
    with pytest.raises(LoadError, match="lists 100001 tensors"):
        read_weights([safetensors(tmp_path / "x.safetensors", header)])
