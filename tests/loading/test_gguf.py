"""GGUF files: an honest one gives the model it was made of, and no count in a header is trusted."""

import struct
import sys

import pytest
import torch

import dsf
from dsf.inspection import support
from dsf.loading import (
    LoadError,
    file_hashes,
    gguf_files,
    load_model,
    load_skeleton,
    read_model_tokenizer,
    token_texts,
)
from tests.loading import gguf_writing
from tests.loading.gguf_writing import small_llama, stored, write_gguf

gguf = pytest.importorskip("gguf", reason='needs pip install "dsf-toolkit[gguf]"')
pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[gguf]"')

TOKENS = torch.arange(9).unsqueeze(0)


@pytest.fixture(scope="module")
def llama():
    return small_llama()


@pytest.fixture(scope="module")
def file(llama, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", llama)


def test_the_model_comes_back(llama, file, no_network):
    loaded = load_model(file)
    assert torch.equal(loaded.model(TOKENS).logits, llama(TOKENS).logits)
    assert not loaded.model.training
    assert (loaded.identity, loaded.revision) == (str(file), None)
    assert loaded.notes == ("the weights are stored as 'F32' and were expanded to float32.",)
    assert no_network == []


def test_the_header_is_read_once(file, monkeypatch):
    """The readers of other libraries trust its counts, and need seconds for a vocabulary."""
    monkeypatch.setattr(gguf, "GGUFReader", None)
    tables = []
    monkeypatch.setattr(
        gguf,
        "get_tensor_name_map",
        lambda *key, real=gguf.get_tensor_name_map: tables.append(key) or real(*key),
    )
    load_model(file)
    assert len(tables) == 1


def test_from_the_folder_around_it(llama, file):
    assert torch.equal(load_model(file.parent).model(TOKENS).logits, llama(TOKENS).logits)


def test_its_layers_are_exact(file):
    inspection = dsf.inspect(file, text="the cat")
    assert inspection.tokens == (("the", " ", "c", "a", "t"),)
    assert [layer.family for layer in inspection] == ["llama", "llama"]
    assert all(layer.formula < 1e-13 for layer in inspection)


def test_token_numbers_are_told_as_text(file, llama):
    """``4`` is ``d``: ids of a checkpoint need no words, and those of a module its tokenizer."""
    told = (("the", " the", "d"),)
    ids = torch.tensor([[29, 30, 4]])
    assert dsf.inspect(file, input_ids=ids).tokens == told
    tokenizer = read_model_tokenizer(file)
    assert dsf.inspect(llama, input_ids=ids, tokens=tokenizer).tokens == told
    assert dsf.inspect(llama, ids, tokens=tokenizer).tokens == told
    with pytest.raises(dsf.inspection.InspectionError, match="'tokenizer'"):
        dsf.inspect(llama, inputs_embeds=torch.zeros(1, 3, 8), tokens=tokenizer)


def test_its_tokenizer_carries_no_program(file):
    tokenizer = read_model_tokenizer(file)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a the")["input_ids"]) == ["a", "Ġthe"]
    assert tokenizer.chat_template is None


def test_tokens_are_told_as_text(file):
    tokenizer = read_model_tokenizer(file)
    assert token_texts(tokenizer, tokenizer("a the")["input_ids"]) == ["a", " the"]
    assert token_texts(tokenizer, [0]) == ["<unk>"]


def test_without_a_tokenizer(llama, tmp_path):
    path = write_gguf(tmp_path / "bare.gguf", llama, tokenizer=False)
    loaded = load_model(path)
    assert loaded.tokenizer is None
    assert torch.equal(loaded.model(TOKENS).logits, llama(TOKENS).logits)


def decoded(weight):
    """Q4_1 by hand: of each 32 numbers a step, the least, and sixteen bytes of two levels each."""
    rows = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
    numbers = []
    for block in rows.reshape(-1, 20):
        step, least, *pairs = struct.unpack("<2e16B", block.tobytes())
        levels = [pair & 15 for pair in pairs] + [pair >> 4 for pair in pairs]
        numbers.append([least + step * level for level in levels])
    return torch.tensor(numbers).reshape(weight.shape)


def test_quantised_weights_are_what_the_format_says(llama, tmp_path):
    path = write_gguf(tmp_path / "small.gguf", llama, gguf.GGMLQuantizationType.Q4_1)
    loaded = load_model(path)
    assert "'F32', 'Q4_1'" in loaded.notes[0]
    for name, part in loaded.model.state_dict().items():
        whole = llama.state_dict()[name]
        expected = decoded(whole.numpy()) if whole.ndim == 2 else whole
        torch.testing.assert_close(part, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(part, whole) == (whole.ndim == 1)
    assert all(layer.formula < 1e-13 for layer in dsf.inspect(loaded.model, input_ids=TOKENS))


def test_another_number_type(file):
    model = load_model(file, dtype=torch.float64).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_what_it_becomes_is_told_without_weights(file):
    skeleton = load_skeleton(file)
    assert {part.device.type for part in skeleton.parameters()} == {"meta"}
    assert [found.mixer for found in support(file)] == ["SoftmaxAttention"] * 2


def test_hashes_follow_the_file(llama, file, tmp_path):
    other = write_gguf(tmp_path / "other.gguf", llama, epsilon=1e-3)
    (settings, weights), (changed, whole) = file_hashes(file), file_hashes(other)
    assert settings != changed
    assert weights != whole
    loaded = load_model(file)
    assert (loaded.config_hash, loaded.weights_hash) == (settings, weights)


def test_not_mapped_and_of_no_revision(file):
    with pytest.raises(LoadError, match="mapped"):
        load_model(file, mapped=True)
    with pytest.raises(LoadError, match="'main'"):
        load_model(file, revision="main")


def test_two_files_in_a_folder(file, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(LoadError, match=r"'a.gguf'"):
        load_model(tmp_path)


def test_a_link_in_a_folder(file, tmp_path):
    (tmp_path / "model.gguf").symlink_to(file)
    with pytest.raises(LoadError, match="link"):
        load_model(tmp_path)


def test_the_package_is_missing(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(LoadError, match=r'"dsf-toolkit\[gguf\]"'):
        load_model(file)


def test_settings_that_are_no_numbers(llama, tmp_path):
    path = write_gguf(tmp_path / "nan.gguf", llama, epsilon=float("nan"))
    with pytest.raises(LoadError, match="'rms_norm_eps'"):
        load_model(path)


def test_fewer_weights_than_the_settings_ask_for(llama, tmp_path, monkeypatch):
    everything = list(stored(llama))
    monkeypatch.setattr(gguf_writing, "stored", lambda _: everything[:-1])
    path = write_gguf(tmp_path / "short.gguf", llama)
    with pytest.raises(LoadError, match="at random"):
        load_model(path)


def text(name):
    return struct.pack("<Q", len(name)) + name.encode()


def setting(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def numbers(count, kind=4, data=b""):
    return struct.pack("<IQ", kind, count) + data


def tensor(name="w", shape=(32,), kind=0, offset=0, axes=None):
    axes = len(shape) if axes is None else axes
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", axes) + sizes + struct.pack("<IQ", kind, offset)


def header(settings=(), tensors=(), *, magic=b"GGUF", version=3, counts=None, data=128):
    there = counts or (len(tensors), len(settings))
    head = magic + struct.pack("<IQQ", version, *there) + b"".join([*settings, *tensors])
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


FAR = 2**63
HOSTILE = {
    "empty": (b"", "not a GGUF file"),
    "other": (b"PK\3\4" + b"\0" * 40, "begins with .* a little-endian GGUF file"),
    "old": (header(version=1), "and version 1"),
    "big-endian": (header(version=3 << 24), "a little-endian GGUF file"),
    "cut": (header()[:10], "header claims 8 bytes at byte 8, where 2 are left"),
    "many tensors": (header(counts=(FAR, 0)), f"lists {FAR} tensors"),
    "many settings": (header(counts=(0, FAR)), f"lists {FAR} settings"),
    "settings that are not there": (header(counts=(0, 9)), "the setting '' twice"),
    "tensors that are not there": (header(counts=(9, 0)), r"'' has shape \[\]"),
    "a setting twice": (header([setting("a", 0, b"1")] * 2), "has the setting 'a' twice"),
    "a tensor twice": (header([], [tensor(), tensor(offset=128)], data=256), "tensor 'w' twice"),
    "long name": (header([struct.pack("<Q", FAR)]), f"a name has {FAR} bytes"),
    "long text": (header([setting("a", 8, struct.pack("<Q", FAR))]), f"claims {FAR} bytes"),
    "long list": (header([setting("a", 9, numbers(FAR))]), "lists have more than 4000000 entries"),
    "empty texts": (
        header([setting("a", 9, numbers(4_000_000, kind=8))]),
        "header claims",
    ),
    "many lists": (
        header([setting(n, 9, numbers(3_000_000, 0, b"\0" * 3_000_000)) for n in "ab"]),
        "lists have more than",
    ),
    "list of lists": (header([setting("a", 9, numbers(1, kind=9))]), "a list of type 9"),
    "unknown type": (header([setting("a", 77, b"")]), "setting of unknown type 77"),
    "part": (header([setting("split.count", 2, b"\2\0")]), "split over several files; merge"),
    "alignment": (
        header([setting("general.alignment", 4, struct.pack("<I", 0))]),
        "an alignment of 0 bytes",
    ),
    "axes": (header([], [tensor(axes=2**31)]), "'w' has 2147483648 axes"),
    "format": (header([], [tensor(kind=999)]), "format number 999"),
    "blocks": (header([], [tensor(shape=(33,), kind=3)]), "blocks of 32 numbers of Q4_1"),
    "nothing": (header([], [tensor(shape=(0,))]), r"has shape \[0\]"),
    "large": (header([], [tensor(shape=(2**40, 2**40))]), "or outside the 224 bytes"),
    "outside": (header([], [tensor(offset=FAR)]), "or outside the"),
    "one over": (header([], [tensor(shape=(33,))]), "or outside the"),
    "shared": (
        header([], [tensor(), tensor("v", offset=96)], data=4096),
        "'v' claims bytes .* in another tensor",
    ),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers(tmp_path, monkeypatch, content, words):
    """Refused by the walk through the header, before another library sees the file."""
    monkeypatch.setattr(gguf_files, "gguf_converter", None)
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(LoadError, match=words):
        load_model(tmp_path / "x.gguf")


def test_a_header_that_fits_to_the_last_byte(tmp_path):
    """The two neighbours of refused headers: tensors side by side up to the end."""
    (tmp_path / "x.gguf").write_bytes(header([], [tensor(), tensor("v", offset=128)], data=256))
    found = gguf_files.read_gguf(tmp_path / "x.gguf").tensors
    assert {each.format.name for each in found} == {"F32"}


def test_an_architecture_that_the_library_does_not_know(tmp_path):
    kind = setting("general.architecture", 8, text("evil"))
    (tmp_path / "x.gguf").write_bytes(header([kind], [tensor()]))
    with pytest.raises(LoadError, match="evil"):
        load_model(tmp_path / "x.gguf")
