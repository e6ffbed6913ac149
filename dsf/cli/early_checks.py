"""What can be known without torch of the model that a person named, its input, and where to write.

The settings of a folder say how many tokens a model knows and how many it reads; the names of its
files say whether there are weights and a tokenizer. The loader looks again, at everything. Where a
command will write is tried before anything heavy is imported.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dsf.cli.options import Asked, Loading, Prompt
from dsf.loading import folder as model_files
from dsf.loading.errors import LoadError, shown
from dsf.properties.names import MANIFEST, MAX_MANIFEST_BYTES, UNFINISHED
from dsf.runtime.files import alone, is_special, read_inside

GGUF = b"GGUF"
TABLE_OF_POSITIONS = {
    "bert", "biogpt", "codegen", "ctrl", "distilbert", "electra", "gpt2", "gpt_bigcode",
    "gpt_neo", "gptj", "openai-gpt", "opt", "roberta", "xglm", "xlm-roberta",
}  # fmt: skip
"""Families that look positions up in a table of fixed size; others read sequences of any length."""


ONE_MIXER_A_BLOCK = {
    "bert", "biogpt", "bloom", "codegen", "distilbert", "falcon", "gemma", "gemma2", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "llama", "mamba", "mamba2", "mistral", "mixtral",
    "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "roberta", "smollm3", "stablelm",
}  # fmt: skip
"""Families with one token mixer in every block; of others the settings do not say how many."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the settings and the names of the files say; None where they say nothing."""

    name: str
    vocabulary: int | None = None
    positions: int | None = None
    tokenizer: bool | None = None
    layers: int | None = None
    heads: int | None = None

    def check_choice(self, layers: object, heads: object) -> None:
        for what, chosen, count in (
            ("layers", layers, self.layers), ("heads", heads, self.heads),
        ):  # fmt: skip
            for each in chosen if isinstance(chosen, list) else [chosen]:
                if count is not None and type(each) is int and not -count <= each < count:
                    raise ValueError(
                        f"{what}: {each} is none of the {count} {what} of {self.name}. Give "
                        f"numbers from 0 to {count - 1}."
                    )

    def check_input(self, prompt: Prompt) -> None:
        if prompt.texts and self.tokenizer is False:
            raise ValueError(without_tokenizer(self.name))
        if prompt.ids is not None:
            check_numbers(prompt.ids, self.vocabulary, self.name)
        if prompt.length is not None:
            check_length(prompt.length, self.positions, self.name)

    def check_asked(self, asked: Asked, prompt: Prompt) -> None:
        prompt.check_position(asked.position)
        self.check_choice(asked.layers, asked.heads)
        tokens, known = asked.tokens(prompt) or (), self.vocabulary
        for option, token in zip(("--target", "--against"), tokens, strict=False):
            if isinstance(token, int) and known is not None and token >= known:
                raise ValueError(
                    f"{option}: expected a token of {self.name} from 0 to {known - 1}, got {token}."
                )


def check_call(model: str, prompt: Prompt, options: Loading) -> ModelFacts:
    """Check a model, its options and its input, without running it."""
    if model.strip():
        prompt.check()
    facts = check_model(model, offline=options.offline, revision=options.revision)
    if getattr(options, "layerwise", False) and model_files.gguf_file(model) is not None:
        raise ValueError(f"--layerwise does not load GGUF files such as {model}. Leave it out.")
    facts.check_input(prompt)
    facts.check_choice(getattr(options, "layers", None), getattr(options, "heads", None))
    return facts


def check_model(
    model: str, *, offline: bool, revision: str | None = None, needs_weights: bool = True
) -> ModelFacts:
    """Read what the settings and the names of the files say of a model."""
    if not model.strip():
        raise LoadError("MODEL is empty. Give a folder, a GGUF file, or a hub id owner/name.")
    if revision is not None and not revision.strip():
        raise LoadError("--revision is empty. Give a branch, tag or commit, or leave it out.")
    path = Path(model)
    if path.is_symlink() and not path.exists():
        raise LoadError(f"{model}: is a link that leads nowhere. Remove it, or give the folder.")
    if not path.exists() and (near := _similar_name(path)):
        raise LoadError(f"{shown(model)}: there is no such folder. Did you mean {near}?")
    place = model_files.located(model, revision, offline=offline, settings_only=True)
    if isinstance(place, Path):
        with place.open("rb") as opened:
            begin = opened.read(len(GGUF))
        if not begin:
            raise LoadError(f"{model}: is empty; download it again.")
        if begin != GGUF:
            raise LoadError(f"{model}: is not a GGUF file: it does not begin with these letters.")
        return ModelFacts(name=model)
    if not path.is_dir():
        return _facts(place, model, tokenizer=None)
    _check_is_model(place, model)
    facts = _facts(place, model, tokenizer=model_files.has_tokenizer(place))
    for weights in model_files.weight_files(place) if needs_weights else ():
        if not weights.stat().st_size:
            raise LoadError(f"{weights}: is empty; download it again.")
        with model_files.opened_safetensors(weights, "np"):  # checks its header, without torch
            pass
    return facts


def check_numbers(numbers: Sequence[int], vocabulary: int | None, model: str) -> None:
    known = "at least one token"
    if vocabulary is not None:
        known = f"one or more numbers from 0 to {vocabulary - 1}"
    if not numbers:
        raise ValueError(f"{model} reads {known}, but the input has none.")
    for place, number in enumerate(numbers):
        if number < 0 or (vocabulary is not None and number >= vocabulary):
            raise ValueError(f"{model} reads {known}, but token {place} of the input is {number}.")


def check_length(tokens: int, most: int | None, model: str) -> None:
    if most is not None and tokens > most:
        raise ValueError(
            f"{model} reads at most {most} tokens, but the input has {tokens}. Give a shorter one."
        )


def without_tokenizer(model: str) -> str:
    """Why text cannot be read."""
    return f"{model} has no tokenizer, so text cannot be read. Give token numbers: --ids '1 2 3'."


def positions(settings: Mapping[str, Any]) -> int | None:
    """How many tokens a model of these settings reads at most; None where they do not say."""
    limit = settings.get("n_positions", settings.get("max_position_embeddings"))
    return _count(limit) if settings.get("model_type") in TABLE_OF_POSITIONS else None


def _check_is_model(folder: model_files.ModelFolder, model: str) -> None:
    if folder.file("config.json") is not None:
        return
    for name, what in (("manifest.json", "run"), ("job.json", "job")):
        if (folder.path / name).is_file():
            cure = f"dsf check {model} checks it" if what == "run" else "give the model's folder"
            raise LoadError(f"{model}: is the folder of a {what}, not of a model; {cure}.")


def _facts(folder: model_files.ModelFolder, model: str, *, tokenizer: bool | None) -> ModelFacts:
    settings = model_files.read_settings(folder, allow_quantized=True).values
    family = settings.get("model_type")
    if not isinstance(family, str):
        raise LoadError(
            f"{folder.path / 'config.json'}: names no model_type, but has {shown(family)}; pass "
            "the folder that save_pretrained wrote."
        )
    return ModelFacts(
        name=model,
        vocabulary=_count(settings.get("vocab_size")),
        positions=positions(settings),
        tokenizer=tokenizer,
        **counts(settings),
    )


def counts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of token mixers and of their heads, where the settings say them."""
    if settings.get("model_type") not in ONE_MIXER_A_BLOCK or settings.get("add_cross_attention"):
        return {}
    names = {
        "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    }
    return {
        what: next((count for name in known if (count := _count(settings.get(name)))), None)
        for what, known in names.items()
    }


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _similar_name(path: Path) -> str:
    """A folder or file that the name of a missing one may have meant."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = get_close_matches(path.name, names, n=1, cutoff=0.8)
    return str(path.with_name(near[0])) if near else ""


# Where a command will write

RUN_NAMES = (MANIFEST, UNFINISHED)
SOURCE_KEYS = ("weights", "configuration", "input")
"""These identify a run; the path of a model may be written in many ways."""
REPORT = ("report.html", "maps.png")
"""The files of a report."""


def check_folder(
    folder: Path, *, files: Iterable[str] = (), models: Iterable[str] = (), option: str = "--out"
) -> None:
    """Check that files can be written to a folder, which need not exist yet."""
    where = f"{option} {str(folder)!r}"
    for above in (folder, *folder.parents):
        if above.is_symlink() and not above.exists():
            raise ValueError(f"{where}: {above} is a link that leads nowhere. Remove it.")
        if above.exists():
            break
    if not above.is_dir():
        named = "is" if above == folder else f"lies in {str(above)!r}, which is"
        raise ValueError(f"{where}: {named} a file, and a folder is expected. Give another name.")
    for model in models:
        if Path(model).is_dir() and folder.is_dir() and folder.samefile(model):
            raise ValueError(
                f"{where}: is the folder of the model, which is only read. Give another folder."
            )
    if model_files.holds_model(folder):
        raise ValueError(
            f"{where}: holds the files of a model; nothing is written next to them. Give another "
            "folder."
        )
    for name in files:
        if (folder / name).is_dir():
            raise ValueError(f"{where}: {name} in it is a folder. Give another folder.")
    try:  # a file without a name, which is gone at once
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ValueError(
            f"{where}: nothing can be written to {str(above)!r}: {error.strerror}. Give another "
            "folder."
        ) from None


def check_file(file: Path, option: str) -> None:
    """Check that a file can be written; its folder need not exist yet."""
    where = f"{option} {str(file)!r}"
    if file.is_dir():
        raise ValueError(f"{where}: is a folder. Give the name of a file.")
    if is_special(file):
        raise ValueError(f"{where}: is a device or a pipe, and a file is written. Give another.")
    if file.is_symlink() and not file.exists():
        raise ValueError(f"{where}: is a link that leads nowhere. Remove it.")
    if file.exists() and (owner := _owner(file)):
        raise ValueError(
            f"{where}: is a file of {owner}, which is not written over. Give another name."
        )
    if file.exists() and not os.access(file, os.W_OK):
        raise ValueError(f"{where}: is write-protected. Give another name, or unprotect it.")
    check_folder(file.parent, option=option)


def _owner(file: Path) -> str:
    """What a file belongs to, in words; empty where that is nothing of ours."""
    folder = file.parent
    if any((folder / name).exists() for name in RUN_NAMES):
        return "a run"
    if (folder / "job.json").exists():
        return "a job"
    return "a model" if file.suffix == ".gguf" or model_files.holds_model(folder) else ""


def check_free(folder: Path) -> None:
    """Raise ValueError if another process is writing into the folder, which may not exist."""
    if folder.is_dir():
        with alone(folder):
            pass


# Folders of runs


def is_run(path: Path) -> bool:
    return (path / RUN_NAMES[0]).is_file() and (path / "units").is_dir()


def check_no_run(folder: Path) -> None:
    """Raise ValueError if the folder holds a run, whose files its manifest binds together."""
    for name in RUN_NAMES:
        if (folder / name).exists():
            raise ValueError(
                f"--out {str(folder)!r}: holds a run of dsf check ({name}), whose report would no "
                "longer be the one that it wrote. Give another folder."
            )


def check_not_of_another(folder: Path, source: Mapping[str, str]) -> None:
    """Raise ValueError if the run in ``folder`` is known to come from something else."""
    there = _source(folder)
    other = [
        key for key in SOURCE_KEYS if key in source and there.get(key) not in (None, source[key])
    ]
    if other:
        raise ValueError(
            f"--out {str(folder)!r}: holds a run with another {' and another '.join(other)}, which "
            "is not written over. Give another folder, or remove this one first."
        )


def _source(folder: Path) -> dict[str, Any]:
    """Where the run in the folder comes from; empty where nothing says it."""
    for name in RUN_NAMES:
        try:
            found = json.loads(read_inside(folder, name, MAX_MANIFEST_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("source"), dict):
            return dict(found["source"])
    return {}
