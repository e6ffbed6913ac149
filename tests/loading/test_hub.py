"""Hub ids: the cache's own links are followed, everything else is one sentence."""

import shutil

import pytest
import torch

from dsf.loading import LoadError, load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(saved_model, tmp_path, monkeypatch):
    """A download cache that holds one model, laid out as the hub's client does it."""
    root = tmp_path / "cache" / "models--owner--name"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "blobs").mkdir()
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for place, path in enumerate(sorted(saved_model[1].iterdir())):
        shutil.copy(path, root / "blobs" / f"blob{place}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob{place}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return snapshot


def test_a_cached_model(saved_model, cache, no_network):
    tokens = torch.arange(5).unsqueeze(0)
    loaded = load_model("owner/name", offline=True)
    assert torch.equal(loaded.model(tokens).logits, saved_model[0](tokens).logits)
    assert (loaded.identity, loaded.revision) == ("owner/name", COMMIT)
    assert load_model(cache).weights_hash == loaded.weights_hash
    assert no_network == []


@pytest.mark.parametrize("target", ["../../../../secret", "../../refs/main", "/etc/hostname"])
def test_a_cached_link_elsewhere_is_not_followed(cache, tmp_path, target):
    (tmp_path / "secret").write_text("{}")
    (cache / "config.json").unlink()
    (cache / "config.json").symlink_to(target)
    with pytest.raises(LoadError, match=r"'config\.json'"):
        load_model("owner/name", offline=True)


def test_a_cache_whose_blobs_are_a_link(cache, tmp_path):
    blobs = cache.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoadError, match="is a link"):
        load_model(cache)


def test_links_to_blobs_outside_a_cache(cache):
    other = cache.parent.rename(cache.parent.with_name("other"))
    with pytest.raises(LoadError, match="is a link"):
        load_model(other / COMMIT)


@pytest.mark.usefixtures("cache")
def test_a_model_that_is_not_cached(no_network):
    with pytest.raises(LoadError, match="'owner/other'") as caught:
        load_model("owner/other", offline=True)
    assert "\n" not in str(caught.value)
    assert no_network == []


def test_a_hub_that_does_not_answer(no_network):
    with pytest.raises(LoadError, match="'owner/other'") as caught:
        load_model("owner/other")
    assert "\n" not in str(caught.value)
    assert no_network


@pytest.mark.parametrize("name", ["./missing", "/missing/folder", "a/b/c", "../a", "a b"])
def test_neither_a_folder_nor_an_id(name, no_network):
    with pytest.raises(LoadError, match="hub id"):
        load_model(name)
    assert no_network == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("~/models/a", "Write your home folder out"),
        ("weights.gguf", "there is no such file"),
        ("owner/weights.gguf", "there is no such file"),
    ],
)
def test_a_path_to_nothing_is_not_looked_for_on_the_hub(no_network, name, words):
    with pytest.raises(LoadError, match=words):
        load_model(name)
    assert no_network == []
