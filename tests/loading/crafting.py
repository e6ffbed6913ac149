"""Torch archives that say whatever a test wants them to say."""

import collections
import io
import pickle
import zipfile

import torch


def saved(path, value):
    torch.save(value, path)
    return path


def rewritten(path, *, replace=None, compression=zipfile.ZIP_STORED):
    """The archive with some members' bytes replaced, by the last part of their names."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, (replace or {}).get(name.partition("/")[2], content))
    return path


class Refers:
    """Pickles as a call of ``function``; storages are those of an archive."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Stored:
    """Stands for a storage of float32 numbers in the archive."""

    def __init__(self, size, member="0"):
        self.id = ("storage", torch.FloatStorage, member, "cpu", size)


class StoragePickler(pickle.Pickler):
    """Writes persistent ids as torch does."""

    def persistent_id(self, value):
        return value.id if isinstance(value, Stored) else None


def crafted(path, value, *, data=bytes(16)):
    """An archive whose list of tensors is whatever ``value`` pickles to."""
    stream = io.BytesIO()
    StoragePickler(stream, protocol=2).dump(value)
    saved(path, torch.zeros(len(data) // 4))
    return rewritten(path, replace={"data.pkl": stream.getvalue(), "data/0": data})


def tensor(size=4, offset=0, shape=(4,), stride=(1,), *, storage=None, more=()):
    """A call that rebuilds a tensor, with any numbers at all."""
    storage = Stored(size) if storage is None else storage
    hooks = collections.OrderedDict()
    rebuild = torch._utils._rebuild_tensor_v2
    return Refers(rebuild, storage, offset, shape, stride, False, hooks, *more)
