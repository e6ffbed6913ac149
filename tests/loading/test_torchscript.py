"""TorchScript: parameters are read, the code that comes with them is not even unpacked."""

import shutil
import warnings
import zipfile

import pytest
import torch

from dsf.loading import LoadError, read_tensors
from tests.loading.crafting import read


class Scripted(torch.nn.Module):
    """Parameters, a buffer, a part, lists and plain settings."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.lstm = torch.nn.LSTM(3, 2)
        self.register_buffer("window", torch.arange(4.0))
        self.sizes = [1, 2]

    def forward(self, x):
        return self.lstm(self.linear(x))[0] * self.sizes[0]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A TorchScript archive and the parameters it was made from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Scripted().eval()
        path = tmp_path_factory.mktemp("script") / "x.jit"
        torch.jit.save(torch.jit.script(module), path)
    return path, module.state_dict()


def test_parameters_of_torchscript(script, monkeypatch):
    monkeypatch.setattr("torch.jit.load", None)
    monkeypatch.setattr("torch.load", None)
    path, expected = script
    found = read_tensors(path, allow_torchscript=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_torchscript_only_when_asked(script, tmp_path):
    path = shutil.copy(script[0], tmp_path / "x.pt")
    with pytest.raises(LoadError, match=r"carries code; pass allow_torchscript=True"):
        read(path)


def test_the_source_in_torchscript_is_not_read(script, tmp_path):
    """Source that cannot even be parsed changes nothing."""
    path = tmp_path / "x.jit"
    with zipfile.ZipFile(script[0]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"<no source>" if "/code/" in name else old.read(name))
    assert read_tensors(path, allow_torchscript=True).keys() == script[1].keys()
