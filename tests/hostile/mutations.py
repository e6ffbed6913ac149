"""Changes of a checkpoint folder, drawn by a seed: of weights, index, settings, tokenizer, files.

A mutated folder is what a damaged disk, a careless program or an attacker makes of an honest one.
"""

import json
import os
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.gguf_parts import SIZES, Gguf, string, taken_apart
from tests.hostile.honest_folders import Files, slow_words

GGUF = "model.gguf"
WEIGHTS, SETTINGS, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"
TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U32", "I16", "U8", "BOOL", "F8_E4M3", "C64")
TYPES_OF_NO_ONE = ("F4", "F128", "OBJECT", "", "f32", None, 7)
NUMBERS = (0, 1, -1, 2, 3, 7, 64, 2**15, 10**6, 10**9, 2**31, 2**53, 2**63, 10**30, -(10**9))
WORDS = (
    "",
    "x",
    "gelu",
    "../../outside/canary",
    "/etc/passwd",
    "a" * 5000,
    "\x00",
    "\u202e\x1b[31m",
)
CODE = {
    "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    "_attn_implementation": "owner/kernel",
    "attn_implementation": "flash_attention_2",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "custom_pipelines": {"x": {"impl": "evil.Pipeline"}},
    "trust_remote_code": True,
    "transformers_weights": "../../outside/canary",
}
FAMILIES = (
    "gpt2",
    "llama",
    "mistral",
    "gpt_neox",
    "rwkv",
    "mamba2",
    "t5",
    "vit",
    "swin",
    "nope",
    "",
)
CLASSES = ("GPT2Model", "LlamaModel", "BertForMaskedLM", "MambaModel", "Trainer", "pipeline", "os")
NORMALISERS = (
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Precompiled", "precompiled_charsmap": "/////w=="},
    {"type": "Replace", "pattern": {"Regex": "((x+)+)+y"}, "content": "xx" * 500},
    {"type": "Prepend", "prepend": "\u2581" * 3000},
)
SPLITS = ("(((", "(( x)+)+y", "(?<!a{1,9}b)", "\\p{Nope}", "(?:x|x|x)*z", "")
TEMPLATES = (
    "{% for i in range(10**12) %}x{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{% x",
    "\x00",
)


class Folder:
    """The files of a folder that is being changed, and how those are made that are no files."""

    def __init__(self, files: Files, chance: random.Random):
        self.files, self.chance = dict(files), chance
        self.odd: dict[str, Callable[[Path], None]] = {}

    def change_json(self, name: str, change: Callable[[Any], Any]) -> None:
        """Parse a file, let ``change`` change or replace the value, and write it again."""
        if name not in self.files:
            return
        try:
            value = json.loads(self.files[name])
        except ValueError:
            return
        new = change(value)
        self.files[name] = json.dumps(value if new is None else new).encode()

    def weight_file(self) -> str:
        """One of the files of weights."""
        names = [name for name in self.files if name.endswith(".safetensors")]
        return self.chance.choice(names) if names else WEIGHTS

    def written(self, place: Path) -> None:
        place.mkdir()
        for name, content in self.files.items():
            if name not in self.odd:
                (place / name).write_bytes(content)
        for name, make in self.odd.items():
            make(place / name)


def nudged(value: Any, chance: random.Random) -> Any:
    """Another value in the place of one: near, far, of another type."""
    near: list[Any] = [
        *NUMBERS,
        *WORDS,
        None,
        True,
        False,
        0.5,
        -1e300,
        [],
        {},
        [[[]]],
        [value] * 3,
    ]
    if isinstance(value, bool):
        near = [not value, *near]
    elif isinstance(value, int):
        near = [value + 1, value - 1, 2 * value, -value, value / 3, *near]
    elif isinstance(value, str):
        near = [value.upper(), value[:-1], value + "x", *near]
    elif isinstance(value, dict) and value:
        near = [{k: v for k, v in value.items() if k != chance.choice([*value])}, *near]
    elif isinstance(value, list) and value:
        near = [value[:-1], value[::-1], value * 2, *near]
    return chance.choice(near[:6]) if chance.random() < 0.5 else chance.choice(near)


def nudge_somewhere(value: Any, chance: random.Random) -> Any:
    """Change one place of a JSON value, wherever it is."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice([*value])
        if chance.random() < 0.1:
            del value[key]
        else:
            value[key] = nudge_somewhere(value[key], chance)
        return value
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        value[at] = nudge_somewhere(value[at], chance)
        return value
    return nudged(value, chance)


def with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A safetensors file with another header over the same data."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
    except ValueError:
        return content
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def bytes_changed(folder: Folder, name: str) -> None:
    """Flip, cut, repeat or insert bytes of a file."""
    content, chance = bytearray(folder.files.get(name, b"")), folder.chance
    if not content:
        return
    at = chance.choice([chance.randrange(len(content)), chance.randrange(min(len(content), 300))])
    way = chance.randrange(5)
    if way == 0:
        content[at] ^= 1 << chance.randrange(8)
    elif way == 1:
        content = content[:at]
    elif way == 2:
        content[at:at] = chance.randbytes(chance.choice([1, 4, 64]))
    elif way == 3:
        del content[at : at + chance.choice([1, 4, 64])]
    else:
        content[at : at + 8] = chance.choice([b"\xff" * 8, bytes(8), b"\x00\x00\xc0\x7f" * 2])
    folder.files[name] = bytes(content)


def relabelled(folder: Folder) -> None:
    """Another type of number over the same bytes, with a shape that fits it or not."""
    chance = folder.chance

    def change(header: dict[str, Any]) -> None:
        entry = header[chance.choice([name for name in header if name != "__metadata__"])]
        entry["dtype"] = chance.choice(TYPES if chance.random() < 0.8 else TYPES_OF_NO_ONE)
        if chance.random() < 0.3:
            entry["shape"] = [chance.choice(NUMBERS), *entry["shape"][1:]]

    name = folder.weight_file()
    folder.files[name] = with_header(folder.files.get(name, b""), change)


def header_changed(folder: Folder) -> None:
    """Names, shapes and places of tensors."""
    chance = folder.chance

    def change(header: dict[str, Any]) -> None:
        names = [name for name in header if name != "__metadata__"]
        name, other = chance.choice(names), chance.choice(names)
        way = chance.randrange(7)
        if way == 0:
            header[name], header[other] = header[other], header[name]
        elif way == 1:
            header[chance.choice([name + "x", "", "../x", name[1:], name.upper()])] = header.pop(
                name
            )
        elif way == 2:
            del header[name]
        elif way == 3:
            header[name]["shape"] = header[name]["shape"][::-1]
        elif way == 4:
            header[name]["data_offsets"] = header[other]["data_offsets"]
        elif way == 5:
            header["__metadata__"] = nudged({"format": "pt"}, chance)
        else:
            nudge_somewhere(header, chance)

    name = folder.weight_file()
    folder.files[name] = with_header(folder.files.get(name, b""), change)


def renamed_twice(folder: Folder) -> None:
    """A table of embeddings under the name of the other one, or without either."""
    chance = folder.chance

    def change(header: dict[str, Any]) -> None:
        tables = [name for name in header if re.search(r"wte|embed|lm_head", name)]
        if tables:
            entry = header.pop(chance.choice(tables))
            if chance.random() < 0.7:
                header[chance.choice(["lm_head.weight", "embed_tokens.weight"])] = entry

    name = folder.weight_file()
    folder.files[name] = with_header(folder.files.get(name, b""), change)


def weight_bytes(folder: Folder) -> None:
    bytes_changed(folder, folder.weight_file())


def index_changed(folder: Folder) -> None:
    """The table from names to files."""
    chance = folder.chance
    if INDEX not in folder.files:
        names = [
            "model.safetensors",
            "../outside/canary",
            "/etc/passwd",
            "x.bin",
            "model.safetensors",
        ]
        table = {
            "metadata": {},
            "weight_map": {"a": chance.choice(names), "b": chance.choice(names)},
        }
        folder.files[INDEX] = json.dumps(table).encode()
        if chance.random() < 0.7:
            folder.files["part.safetensors"] = folder.files.pop(WEIGHTS, b"")
        return
    folder.change_json(INDEX, lambda value: nudge_somewhere(value, chance))


def settings_changed(folder: Folder) -> None:
    folder.change_json(SETTINGS, lambda value: nudge_somewhere(value, folder.chance))


def counts_changed(folder: Folder) -> None:
    """Sizes in the settings, large ones above all."""
    chance = folder.chance

    def change(values: dict[str, Any]) -> None:
        whole = [name for name, value in values.items() if type(value) is int]
        new = [
            "num_labels",
            "depths",
            "num_experts",
            "num_local_experts",
            "max_position_embeddings",
        ]
        for _ in range(chance.randrange(1, 3)):
            name = chance.choice([*whole, *new])
            values[name] = chance.choice([[10**7], *NUMBERS] if name == "depths" else NUMBERS)

    folder.change_json(SETTINGS, change)


def family_changed(folder: Folder) -> None:
    chance = folder.chance

    def change(values: dict[str, Any]) -> None:
        if chance.random() < 0.5:
            values["model_type"] = chance.choice([*FAMILIES, *WORDS])
        if chance.random() < 0.7:
            values["architectures"] = [chance.choice([*CLASSES, *WORDS])]
        if chance.random() < 0.3:
            values["tie_word_embeddings"] = not values.get("tie_word_embeddings", False)

    folder.change_json(SETTINGS, change)


def tied_changed(folder: Folder) -> None:
    def change(values: dict[str, Any]) -> None:
        values["tie_word_embeddings"] = not values.get("tie_word_embeddings", True)

    folder.change_json(SETTINGS, change)


def number_type_changed(folder: Folder) -> None:
    names = ("float16", "bfloat16", "float64", "float32", "int8", "uint32", "x", 3, None)

    def change(values: dict[str, Any]) -> None:
        values[folder.chance.choice(["dtype", "torch_dtype"])] = folder.chance.choice(names)

    folder.change_json(SETTINGS, change)


def code_selected(folder: Folder) -> None:
    name = folder.chance.choice([*CODE])
    folder.change_json(SETTINGS, lambda values: values.update({name: CODE[name]}))
    folder.files["evil.py"] = b"open('/outside/canary', 'w').write('x')\n"


def settings_bytes(folder: Folder) -> None:
    bytes_changed(folder, SETTINGS)


def tokenizer_changed(folder: Folder) -> None:
    name = TOKENIZER if folder.chance.random() < 0.8 else TOKENIZER_SETTINGS
    folder.change_json(name, lambda value: nudge_somewhere(value, folder.chance))


def tokenizer_part(folder: Folder) -> None:
    """A part that compiled code reads: normaliser, pattern, decoder, padding, numbers of tokens."""
    chance = folder.chance

    def change(value: dict[str, Any]) -> None:
        way = chance.randrange(5)
        if way == 0:
            value["normalizer"] = chance.choice(NORMALISERS)
        elif way == 1:
            pattern = {"Regex": chance.choice(SPLITS)}
            value["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated",
                                      "invert": chance.random() < 0.5}  # fmt: skip
        elif way == 2:
            value["padding"] = {"strategy": {"Fixed": chance.choice(NUMBERS)}, "direction": "Right",
                                "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                                "pad_token": "x"}  # fmt: skip
        elif way == 3:
            value["added_tokens"] = [
                {"id": chance.choice(NUMBERS), "content": chance.choice(WORDS), "special": True,
                 "single_word": False, "lstrip": True, "rstrip": True, "normalized": False}
            ]  # fmt: skip
        else:
            value["truncation"] = {"direction": "Left", "strategy": "LongestFirst",
                                   "max_length": chance.choice(NUMBERS),
                                   "stride": chance.choice(NUMBERS)}  # fmt: skip

    folder.change_json(TOKENIZER, change)


def tokenizer_bytes(folder: Folder) -> None:
    bytes_changed(folder, folder.chance.choice([TOKENIZER, TOKENIZER_SETTINGS]))


def other_tokenizer(folder: Folder) -> None:
    """The files of other kinds of tokenizers, honest or of random bytes."""
    chance = folder.chance
    names = ("vocab.txt", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt")
    contents = (slow_words(), chance.randbytes(200), b"{}", b"", b'{"a": 4000000000}', b"#v\na b\n")
    if chance.random() < 0.7:
        folder.files.pop(TOKENIZER, None)
    folder.files[chance.choice(names)] = chance.choice(contents)
    kinds = ("BertTokenizer", "LlamaTokenizer", "T5Tokenizer", "GPT2Tokenizer", "Nope", "os.system")
    folder.change_json(
        TOKENIZER_SETTINGS, lambda value: value.update(tokenizer_class=chance.choice(kinds))
    )


def template_changed(folder: Folder) -> None:
    chance = folder.chance
    text = chance.choice(TEMPLATES)
    if chance.random() < 0.5:
        folder.files["chat_template.jinja"] = text.encode()
    folder.change_json(TOKENIZER_SETTINGS, lambda value: value.update(chat_template=text))


def _linked(path: Path) -> None:
    path.symlink_to(path.parent.parent / "outside" / "canary")


def _piped(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def no_plain_file(folder: Folder) -> None:
    """A link, a pipe or a folder in the place of a file, or none."""
    name = folder.chance.choice([*folder.files])
    way = folder.chance.choice([_linked, _piped, _folder, None])
    if way is None:
        del folder.files[name]
    else:
        folder.odd[name] = way


def strangers_added(folder: Folder) -> None:
    """Files that nobody asked for."""
    chance = folder.chance
    name = chance.choice(["pytorch_model.bin", "adapter_config.json", "generation_config.json",
                          "tf_model.h5", "model.gguf", "sitecustomize.py"])  # fmt: skip
    folder.files[name] = chance.choice([b"", b"{}", b"import os\n", chance.randbytes(100)])


def gguf_bytes(folder: Folder) -> None:
    bytes_changed(folder, GGUF)


def _gguf_changed(folder: Folder, change: Callable[[Gguf], None]) -> None:
    parts = taken_apart(folder.files[GGUF])
    change(parts)
    folder.files[GGUF] = parts.packed()


def gguf_settings(folder: Folder) -> None:
    """Values, kinds and names of settings; settings that stand twice or are gone."""
    chance = folder.chance

    def change(parts: Gguf) -> None:
        at = chance.randrange(len(parts.settings))
        key, kind, value = parts.settings[at]
        way = chance.randrange(6)
        if way == 0:
            del parts.settings[at]
        elif way == 1:
            parts.settings.append((key, kind, value))
        elif way == 2:
            parts.settings[at] = key, chance.choice([*SIZES, 8, 9, 13, -1]), value
        elif way == 3:
            name = chance.choice(WORDS).encode("utf-8", "surrogatepass")
            parts.settings[at] = chance.choice([name, key[:-1], key + b"x", b"\xff"]), kind, value
        elif kind in SIZES:
            number = chance.choice(NUMBERS) % 2 ** (8 * SIZES[kind])
            parts.settings[at] = key, kind, number.to_bytes(SIZES[kind], "little")
        else:
            text = chance.choice([*WORDS, "llama", "mamba", "gpt2", "bert", "t5", "unigram"])
            parts.settings[at] = key, 8, string(text.encode("utf-8", "surrogatepass"))

    _gguf_changed(folder, change)


def gguf_tokens(folder: Folder) -> None:
    """Lists of the tokenizer: longer, shorter, of other words, or of another kind."""
    chance = folder.chance

    def change(parts: Gguf) -> None:
        lists = [n for n, (key, kind, _) in enumerate(parts.settings)
                 if kind == 9 and key.startswith(b"tokenizer")]  # fmt: skip
        at = chance.choice(lists)
        words = [chance.choice(WORDS).encode() for _ in range(chance.choice((0, 1, 31, 500)))]
        inner, count = chance.choice(((8, len(words)), (8, len(words) + 1), (4, 0), (9, 1)))
        value = inner.to_bytes(4, "little") + count.to_bytes(8, "little")
        parts.settings[at] = parts.settings[at][0], 9, value + b"".join(map(string, words))

    _gguf_changed(folder, change)


def gguf_tensors(folder: Folder) -> None:
    """Names, shapes, formats and places of tensors, and the data behind them."""
    chance = folder.chance

    def change(parts: Gguf) -> None:
        at, other = (chance.randrange(len(parts.tensors)) for _ in range(2))
        name, shape, kind, offset = parts.tensors[at]
        way = chance.randrange(8)
        if way == 0:
            del parts.tensors[at]
        elif way == 1:
            parts.tensors[at] = parts.tensors[other][0], shape, kind, offset
        elif way == 2:
            parts.tensors[at] = name, shape, chance.choice((0, 1, 2, 8, 14, 30, 99)), offset
        elif way == 3:
            parts.tensors[at] = name, shape[::-1], kind, offset
        elif way == 4:
            sizes = [chance.choice(NUMBERS), *shape[1:]]
            parts.tensors[at] = (
                name,
                chance.choice([sizes, [*shape, 1], [], shape * 3]),
                kind,
                offset,
            )
        elif way == 5:
            parts.tensors[at] = name, shape, kind, chance.choice([*NUMBERS, offset + 32])
        elif way == 6:
            parts.data = parts.data[: chance.randrange(len(parts.data))]
        else:
            data = bytearray(parts.data)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            parts.data = bytes(data)

    _gguf_changed(folder, change)


MUTATIONS = (
    *(relabelled, header_changed, renamed_twice, weight_bytes, index_changed),
    *(settings_changed, counts_changed, family_changed, tied_changed, number_type_changed),
    *(code_selected, settings_bytes, tokenizer_changed, tokenizer_part, tokenizer_bytes),
    *(other_tokenizer, template_changed, no_plain_file, strangers_added),
    *(gguf_bytes, gguf_settings, gguf_tokens, gguf_tensors),
)
OF_GGUF = (gguf_bytes, gguf_settings, gguf_tokens, gguf_tensors)
OF_ANY = (no_plain_file, strangers_added)
OF_TOKENS = (
    *(tokenizer_changed, tokenizer_part, tokenizer_bytes, other_tokenizer, template_changed),
)


def mutated(honest: dict[str, Files], seed: int, number: int) -> tuple[Folder, tuple[str, ...]]:
    """The folder of a number, and the names of the changes that were made to it."""
    chance = random.Random(f"{seed}-{number}")
    made = [MUTATIONS[number % len(MUTATIONS)]]
    suited = [
        files
        for files in honest.values()
        if (
            (GGUF in files) == (made[0] in OF_GGUF)
            and (TOKENIZER in files or made[0] not in OF_TOKENS)
        )
        or made[0] in OF_ANY
    ]
    folder = Folder(chance.choice(suited), chance)
    while chance.random() < 0.25:
        made.append(chance.choice(MUTATIONS))
    for change in made:
        try:
            change(folder)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error):
            continue  # an earlier change left nothing here to change
    return folder, tuple(change.__name__ for change in made)
