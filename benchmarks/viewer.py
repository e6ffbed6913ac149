"""The page of an inspection at real sizes, photographed and timed: docs/viewer.md.

    python -m benchmarks.viewer [--sheets] [--pictures FOLDER] [--keep FOLDER] [--note TEXT]
                                [CASE ...]

Every case is inspected, its page written and opened in Chromium at 1440 x 900 pixels. Written down
are the width of the map, the size of the file, the time until it can be used, and the time from a
click on another head until that is drawn. ``--keep`` holds the pages, so that a second run only
opens them again. ``--sheets`` photographs every page in two themes and three widths, and joins the
six pictures to the one that docs/viewer.md shows. SmolLM2 needs the trained weights:
``make pretrained``.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from benchmarks.real_shapes import model_of
from dsf.inspection import inspect
from dsf.report import show

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "viewer.json", ROOT / "docs" / "viewer.md"
SHEETS = ROOT / "docs" / "images" / "viewer"
SCHEMES = ("light", "dark")
SHRUNK, BETWEEN, QUALITY = 0.6, 12, 82  # of a sheet; the distance of its pictures is in its pixels
SIZES = {"1440": (1440, 900), "1024": (1024, 900), "390": (390, 844)}
SHAPES = {
    "GPT-2 124M, 512 tokens": ("GPT-2 124M", 512),
    "GPT-2 124M, 2,048 tokens": ("GPT-2 124M", 2048),
    "Mamba 130M, 512 tokens": ("Mamba 130M", 512),
    "Qwen3-Next hybrid, 512 tokens": ("Qwen3-Next, 92M", 512),
}
TRAINED = {"SmolLM2 135M, 512 tokens": 512, "SmolLM2 135M, 2,048 tokens": 2048}

MAP = """() => {
    const canvas = document.querySelector(".canvases canvas"), { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    let most = 0;
    for (let y = 0; y < height; y += 1) {
        for (let x = 0, run = 0; x < width; x += 1) {
            run = data[4 * (y * width + x) + 3] === 255 ? run + 1 : 0;
            most = Math.max(most, run);
        }
    }
    return Math.round(most / devicePixelRatio); }"""
"""The longest painted line: the last query of a causal map reads every key."""

SWITCHES = """async () => {
    const thumbs = [...document.querySelectorAll(".thumb")], times = [];
    const heading = document.querySelector(".pane h2");
    for (const thumb of thumbs.slice(1, 41)) {
        const begun = performance.now();
        const changed = new Promise((done) => {
            const watch = new MutationObserver(() => { watch.disconnect(); done(); });
            watch.observe(heading, { childList: true });
        });
        thumb.click();
        await Promise.race([changed, new Promise((done) => setTimeout(done, 2000))]);
        times.push(performance.now() - begun);
    }
    return times; }"""


def stem_of(case: str) -> str:
    """The name of a case in files."""
    return "".join(letter for letter in case if letter.isalnum())


def page_of(case: str, folder: Path) -> Path:
    """The page of a case, written if it is not there yet."""
    path = folder / f"{stem_of(case)}.html"
    if path.exists():
        return path
    if case in TRAINED:
        from tests.pretrained.trained_models import writer

        model, _, named = writer(TRAINED[case])()
    else:
        shape, tokens = SHAPES[case]
        model = model_of(shape)
        draw = torch.Generator().manual_seed(0)
        named = {"input_ids": torch.randint(0, 1000, (1, tokens), generator=draw)}
    return show(inspect(model, checks="none", **named), path, title=case)


def measured(browser: Any, case: str, page: Path, pictures: Path | None) -> dict[str, Any]:
    """The figures of one page; pictures in both themes and three widths, if they are asked for."""
    opened = browser.new_page(viewport=dict(zip(("width", "height"), SIZES["1440"], strict=True)))
    begun = time.perf_counter()
    opened.goto(page.as_uri())
    opened.wait_for_selector("html[data-ready]", timeout=120_000)
    ready = time.perf_counter() - begun
    width = opened.evaluate(MAP)
    thumb = opened.locator(".thumb canvas").first.bounding_box()["width"]
    switches = opened.evaluate(SWITCHES)
    opened.close()
    if pictures is not None:
        photograph(browser, page, pictures)
    return {
        "case": case,
        "map_pixels": width,
        "thumbnail_pixels": round(thumb),
        "megabytes": round(page.stat().st_size / 1e6, 1),
        "seconds_to_open": round(ready, 2),
        "switch_milliseconds": round(median(switches)),
    }


def photograph(browser: Any, page: Path, pictures: Path, *, view: str = "") -> None:
    """The page as it opens, or in the view of this name, in both themes and three widths."""
    pictures.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            size = {"width": width, "height": height}
            opened = browser.new_page(viewport=size, color_scheme=scheme)
            opened.goto(page.as_uri())
            opened.wait_for_selector("html[data-ready]", timeout=120_000)
            if view:
                opened.get_by_role("button", name=view, exact=True).click()
            opened.wait_for_timeout(300)  # tokens and scrolling follow a frame later
            opened.screenshot(path=pictures / f"{page.stem}-{name}-{scheme}.png")
            opened.close()


def sheet(pictures: Path, stem: str, into: Path = SHEETS) -> Path:
    """The six pictures of a page as one: a row for each theme, the widths side by side."""
    shown = [
        [Image.open(pictures / f"{stem}-{name}-{scheme}.png").convert("RGB") for name in SIZES]
        for scheme in SCHEMES
    ]
    width = sum(each.width for each in shown[0])
    height = sum(max(each.height for each in row) for row in shown)
    gap = round(BETWEEN / SHRUNK)
    joined = Image.new("RGB", (width + 2 * gap, height + gap), (128, 128, 128))
    down = 0
    for row in shown:
        across = 0
        for each in row:
            joined.paste(each, (across, down))
            across += each.width + gap
        down += max(each.height for each in row) + gap
    size = tuple(round(SHRUNK * length) for length in joined.size)
    into.mkdir(parents=True, exist_ok=True)
    path = into / f"{stem}.webp"
    joined.resize(size, Image.Resampling.LANCZOS).save(path, quality=QUALITY, method=6)
    return path


HEAD = """# The page at real size

What a page of `dsf.show` is like at the size of published checkpoints:
`python -m benchmarks.viewer` inspects every case, opens its page in Chromium at 1440 x 900 pixels,
and writes this table. SmolLM2 has its trained weights and reads pages of this documentation; the
others have random weights, so that their maps show noise. *Map* is the width of the first map as
the page opens, *switch* the median time from a click on another head until its map is drawn.

| case | map, pixels | thumbnail, pixels | file, MB | opens in, s | switch, ms |
|---|---|---|---|---|---|
"""


def text(rows: list[dict[str, Any]], judged: dict[str, str], note: str) -> str:
    """The page; ``judged`` is what was said of each case after looking at its pictures."""
    lines = "".join(
        f"| {row['case']} | {row['map_pixels']} | {row['thumbnail_pixels']} | {row['megabytes']} | "
        f"{row['seconds_to_open']} | {row['switch_milliseconds']} |\n"
        for row in rows
    )
    said = "\n".join(
        f"### {row['case']}\n\n{_shown(row['case'])}{judged[row['case']]}\n"
        for row in rows
        if row["case"] in judged
    )
    return (
        HEAD
        + lines
        + f"\n{DIFFERENCE}\n"
        + (f"{note}\n\n" if note else "")
        + LIMITS
        + (f"\n## Looked at\n\n{LOOKED}\n{said}" if said else "")
    )


def _shown(case: str) -> str:
    """The sheet of a case in Markdown, if there is one."""
    path = SHEETS / f"{stem_of(case)}.webp"
    if not path.exists():
        return ""
    words = f"The page of {case}: light above, dark below, 1440, 1024 and 390 pixels wide"
    return f"![{words}]({path.relative_to(PAGE.parent).as_posix()})\n\n"


DIFFERENCE = (
    "Two maps, of one model or of two, are shown side by side, and `A − B` shows their "
    "difference:\n\n"
    "![Softmax attention next to a gated delta rule on one prompt, dark: the same cell is marked "
    "in both](images/viewer-dark.png)\n"
)


LIMITS = """## Limits of the file

Pictures of all maps share about 9.6 million cells of one byte, before compression, and at most
256 x 256 for each; thumbnails have 48 x 48. Maps without pooling take at most 32 MiB compressed
(`full_resolution=`), and one of them is kept in any case, up to 3.25 MiB. They have one byte for
a weight, which is marked with ≈ and right to 0.8 % of the map's largest weight; the largest weights
in list and map are exact.
Of a layer whose channels have a map each, a page shows all channels together and 8 single ones.

Rows and columns are named as the tokens that they are, also in windows. Texts mark the tokens
of the input that was named when the model was inspected. In a translator these are the tokens of
the encoder; those of the decoder have texts where a tokenizer is known, or where every number of
theirs also occurs in the encoder's input. Checks on the run find out whose tokens they are; with
`checks="none"` they are skipped, and tokens of two inputs of one length would look alike.
"""


LOOKED = """Each picture shows the page as it opens: light above and dark below, in windows of 1440,
1024 and 390 pixels. What is said of it was written after looking at all six.
"""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of every page")
    parser.add_argument("--sheets", action="store_true", help="renew the pictures of the page")
    parser.add_argument("--keep", type=Path, help="a folder in which pages stay for the next run")
    parser.add_argument("--note", help="a sentence about the machine; by default the one before")
    asked = parser.parse_args(arguments)
    unknown = set(asked.cases) - {*SHAPES, *TRAINED}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}; there are {[*SHAPES, *TRAINED]}")
    from playwright.sync_api import sync_playwright

    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    rows = {row["case"]: row for row in record.get("rows", [])}
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as running:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        browser = running.chromium.launch(executable_path=shutil.which("chromium"))
        for case in asked.cases or [*SHAPES, *TRAINED]:
            page, pictures = page_of(case, folder), asked.pictures
            if asked.sheets and pictures is None:
                pictures = folder / "pictures"
            rows[case] = measured(browser, case, page, pictures)
            print(rows[case], flush=True)
            if asked.sheets and pictures is not None:
                print(sheet(pictures, page.stem), flush=True)
        browser.close()
    ordered = [rows[case] for case in [*SHAPES, *TRAINED] if case in rows]
    judged = record.get("judged", {})
    note = record.get("note", "") if asked.note is None else asked.note
    record = {"rows": ordered, "judged": judged, "note": note}
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(text(ordered, judged, note), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
