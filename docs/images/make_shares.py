"""Photograph a report with an attribution, on a trained model: ``shares.webp``.

    python -m docs.images.make_shares

Light above, dark below, in three widths. Needs Chromium on the PATH, the group ``browser`` of
pyproject.toml, and the weights of SmolLM2: ``python tests/pretrained/fetch.py smollm2``.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright

import dsf
from benchmarks.viewer import photograph, sheet
from dsf.loading import load_model, token_texts
from tests.pretrained.trained_models import folder

HERE = Path(__file__).resolve().parent
PROMPT, TARGET, AGAINST = "The capital of France is", " Paris", " London"


def main() -> None:
    with tempfile.TemporaryDirectory() as place, sync_playwright() as running:
        page = write(Path(place) / "shares.html")
        browser = running.chromium.launch(executable_path=shutil.which("chromium"))
        photograph(browser, page, Path(place), view="Shares")
        print(sheet(Path(place), page.stem, HERE))
        browser.close()


def write(path: Path) -> Path:
    """The report, with the strongest edge between two tokens cut in a second run."""
    weights = folder("smollm2")
    loaded = load_model(weights)
    tokenizer: Any = loaded.tokenizer
    numbers = tokenizer(PROMPT)["input_ids"]
    ids, words = torch.tensor([numbers]), [token_texts(tokenizer, numbers)]
    inspection = dsf.inspect(loaded.model, input_ids=ids, tokens=words, checks="none")
    share = dsf.stack(weights, input_ids=ids).attribute(TARGET, against=AGAINST)
    edges = share.strongest_edges(50).to_json()
    edge = next(each for each in edges if each["query"] != each["key"])
    cut = dsf.edits.Cut(edge["layer"], query=[edge["query"]], key=[edge["key"]])
    return dsf.show(
        inspection,
        path,
        title=PROMPT,
        attribution=share,
        target="the logit of “␣Paris” less that of “␣London”",
        paths=share.paths(8),
        intervention=dsf.intervene(weights, edits=[cut], input_ids=ids),
    )


if __name__ == "__main__":
    main()
