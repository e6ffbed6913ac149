"""The picture that the README leads with can be made again from the models in the package."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "images" / "make_maps.py"


@pytest.fixture
def script():
    found = importlib.util.spec_from_file_location("make_maps", SCRIPT)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_picture_is_made_and_its_rings_stand_on_values(script, tmp_path):
    from dsf.models import recall

    script.main(tmp_path)
    for name in ("maps.png", "maps-narrow.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    rng = script.torch.Generator().manual_seed(script.SEED)
    drawn = recall.draw(rng, 1)
    words = recall.spell(drawn.tokens[0])
    answers = script.where_the_answers_stand(drawn)
    assert len(answers) == recall.PAIRS
    for query, value in answers:
        assert words[query] == words[value - 1]
        assert words[query].startswith("k")
        assert words[value].startswith("v")
