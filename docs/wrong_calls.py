"""Every way to call the command line wrongly that we could think of: what it says, and how soon.

python -m docs.wrong_calls  # runs each and writes wrong_calls.md

``tests/cli/test_wrong_calls.py`` runs the same calls and holds the page against them.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

PAGE = Path(__file__).resolve().with_name("wrong_calls.md")
ROOT = PAGE.parents[1]


@dataclass(frozen=True)
class Call:
    """A wrong call.

    Attributes:
        words: what is typed after ``dsf``, in a folder that ``prepare`` made.
        code: its exit code.
        said: a part of the message.
        runs: whether a model has to be loaded before anything wrong can be known.
    """

    words: str
    code: int
    said: str
    runs: bool = False

    @property
    def arguments(self) -> list[str]:
        """The words as the shell passes them on."""
        return shlex.split(self.words)


def sweep(rest: str, target: int | None = 3) -> str:
    """The words of a sweep."""
    asked = "" if target is None else f" --target {target}"
    return f"intervene model --ids '1 2' --sweep{asked} {rest}".rstrip()


COMMANDS = (
    Call("inspekt model", 2, "No such command"),
    Call("inspect", 2, "Missing argument"),
    Call("inspect model --ids '1 2' --layer 0", 2, "No such option"),
    Call("inspect model --ids '1 2' --tolerance small", 2, "--tolerance"),
    Call("inspect model --ids '1 2' --threads 0", 2, "'--threads'"),
    Call("inspect model --ids '1 2' --threads two", 2, "'--threads'"),
    Call("inspect model --ids '1 2' --threads 20000", 2, "'--threads'"),
    Call("--verison", 2, "No such option"),
    Call("help", 2, "No such command"),
    Call("inspect model --ids '1 2' --ids '3 4'", 2, "'--ids'"),
    Call("inspect model --ids '1 2' --layers 0 --layers=1", 2, "'--layers'"),
    Call("inspect model --ids '1 2' --json=yes", 2, "does not take a value"),
    Call("inspect model --ids '1 2' --memory lots", 2, "'--memory'"),
    Call("inspect model --ids '1 2' --memory 1_0", 2, "'--memory'"),
    Call("inspect model --ids '1 2' --threads ٣", 2, "'--threads'"),
)
MODELS = (
    Call("inspect modle --ids '1 2'", 2, "Did you mean model?"),
    Call("inspect a/b/c --ids '1 2'", 2, "neither an existing folder nor a hub id"),
    Call("inspect owner/name --ids '1 2' --offline", 2, "from the local cache only"),
    Call("inspect '' --ids '1 2'", 2, "MODEL is empty"),
    Call("inspect empty --ids '1 2'", 2, "has no file 'config.json'"),
    Call("inspect astray --ids '1 2'", 2, "is a link that leads nowhere"),
    Call("inspect text.txt --ids '1 2'", 2, "is a file, where the folder around it"),
    Call("inspect fake.gguf --ids '1 2'", 2, "is not a GGUF file"),
    Call("inspect other --ids '1 2'", 2, "names no model_type"),
    Call("inspect broken --ids '1 2'", 2, "not acceptable JSON"),
    Call("inspect list --ids '1 2'", 2, "expected a JSON object"),
    Call("inspect bytes --ids '1 2'", 2, "not acceptable JSON"),
    Call("inspect unfinished --ids '1 2'", 2, "has no model.safetensors"),
    Call("inspect pickled --ids '1 2'", 2, "would have to be unpickled"),
    Call("inspect zero --ids '1 2'", 2, "is empty; download it again"),
    Call("inspect shards --ids '1 2'", 2, "download the missing part"),
    Call("inspect run --ids '1 2'", 2, "is the folder of a run, not of a model"),
    Call("inspect job --ids '1 2'", 2, "is the folder of a job, not of a model"),
    Call("inspect model --revision main --ids '1 2'", 2, "has no revision"),
    Call("inspect owner/name --revision= --ids '1 2'", 2, "--revision is empty"),
    Call("inspect 'model ' --ids '1 2'", 2, "'model ': there is no such folder"),
    Call("inspect '~/models/a' --ids '1 2'", 2, "Write your home folder out"),
    Call("inspect nowhere.gguf --ids '1 2'", 2, "there is no such file"),
    Call("inspect empty.gguf --ids '1 2'", 2, "is empty; download it again"),
    Call("inspect https://huggingface.co/gpt2 --ids 1", 2, "nor a hub id"),
    Call("inspect model/config.json --ids '1 2'", 2, "is a file, where the folder around it"),
    Call("inspect torn --ids '1 2'", 2, "is damaged or cut short"),
    Call("inspect webpage --ids '1 2'", 2, "download or save the file again"),
    Call("inspect tied --ids '1 2'", 2, "is a link, and links are not followed"),
    Call("inspect foreign --ids '1 2'", 2, "has no family 'unheard'", runs=True),
    Call("inspect mistyped --ids '1 2'", 2, "expected int, got str", runs=True),
    Call("inspect taller --ids '1 2'", 2, "would be drawn at random", runs=True),
    Call("inspect lower --ids '1 2'", 2, "would be cut short", runs=True),
    Call("inspect nan --ids '1 2'", 2, "NaN", runs=True),
    Call("inspect empty --dry-run", 2, "has no file 'config.json'"),
    Call("inspect model --dry-run --layers ,", 2, "'--layers'"),
    Call("inspect model --dry-run --layers 99", 2, "is none of the 2 layers", runs=True),
)
INPUTS = (
    Call("inspect model", 2, "exactly one of --text, --ids and --file"),
    Call("inspect model --ids '1 2' --text a", 2, "got 2"),
    Call("inspect model --ids '1 x'", 2, "whole numbers"),
    Call("inspect model --ids 1.5", 2, "whole numbers"),
    Call("inspect model --ids 1_0", 2, "whole numbers"),
    Call("inspect model --ids '１ ２'", 2, "whole numbers"),
    Call("inspect model --ids '[1, 2]'", 2, "whole numbers"),
    Call("inspect model --ids ''", 2, "the input has none"),
    Call("inspect model --ids=-1", 2, "'--ids'"),
    Call("inspect model --ids '1 32'", 2, "but token 1 of the input is 32"),
    Call("inspect model --ids 99999999999999999999", 2, "'--ids'"),
    Call("inspect short --ids '1 2 3 4 5 6 7 8 9'", 2, "reads at most 8 tokens"),
    Call("inspect model --text hello", 2, "has no tokenizer"),
    Call("inspect model --text ''", 2, "the text is empty"),
    Call("inspect model --file nowhere.txt", 2, "'--file'"),
    Call("inspect model --file -", 2, "'--file'"),
    Call("inspect model --file empty", 2, "'--file'"),
    Call("inspect model --file empty.txt", 2, "the text is empty"),
    Call("inspect model --file binary.txt", 2, "--file"),
    Call("inspect model --file latin.txt", 2, "--file"),
    Call("inspect model --file zeros.txt", 2, "--file"),
    Call("inspect model --file /dev/zero", 2, "--file"),
    Call("inspect model --file text.txt/deep", 2, "'--file'"),
    Call("inspect spoken --text 'a a a a a a a a a'", 2, "reads at most 8 tokens", runs=True),
)
OPTIONS = (
    Call("inspect model --ids '1 2' --heads a", 2, "Heads are counted from 0"),
    Call("inspect model --ids '1 2' --heads ''", 2, "'--heads'"),
    Call("inspect model --ids '1 2' --layers 3:1", 2, "'--layers'"),
    Call("inspect model --ids '1 2' --layers 0:4:0", 2, "'--layers'"),
    Call("inspect model --ids '1 2' --dtype float31", 2, "'--dtype'"),
    Call("inspect model --ids '1 2' --tolerance 2", 2, "'--tolerance'"),
    Call("inspect model --ids '1 2' --memory 0", 2, "'--memory'"),
    Call("inspect model --ids '1 2' --memory inf", 2, "'--memory'"),
    Call("inspect model --ids '1 2' --layerwise --exact", 2, "exclude each other"),
    Call("inspect model --ids '1 2' --open --no-report", 2, "exclude each other"),
    Call("inspect model --ids '1 2' --layers 99", 2, "is none of the 2 layers"),
    Call("inspect model --ids '1 2' --layers mlp", 2, "is none of the 2 layers", runs=True),
    Call("inspect model --ids '1 2' --heads 7", 2, "is none of the 2"),
    Call("inspect model --ids '1 2' --memory 0.0001", 3, "are available", runs=True),
)
OUTPUTS = (
    Call("inspect model --ids '1 2' --out text.txt", 2, "is a file, and a folder is expected"),
    Call("inspect model --ids '1 2' --out ''", 2, "'--out'"),
    Call("inspect model --ids '1 2' --out text.txt/deep", 2, "a file, and a folder is expected"),
    Call("inspect model --ids '1 2' --out model", 2, "is the folder of the model"),
    Call("inspect model --ids '1 2' --out ./short/../model", 2, "is the folder of the model"),
    Call("inspect model --ids '1 2' --out short", 2, "holds the files of a model"),
    Call("inspect model --ids '1 2' --out earlier", 2, "holds a run of dsf check"),
    Call("inspect model --ids '1 2' --out /proc/here", 2, "nothing can be written"),
    Call("inspect model --ids '1 2' --out taken", 2, "report.html in it is a folder"),
    Call("inspect model --ids '1 2' --out astray", 2, "is a link that leads nowhere"),
    Call("inspect model --ids '1 2' --out=~/maps", 2, "Write your home folder out"),
    Call("inspect model --ids '1 2' --out /dev/null", 2, "is a file, and a folder is expected"),
    Call("check model --ids '1 2' --out taken", 2, "report.html in it is a folder"),
    Call("check model --ids '1 2' --out foreign_job", 2, "no run wrote them"),
    Call("demo --playground delta_net --out model/config.json", 2, "is a file of a model"),
    Call("demo --playground delta_net --out /dev/null", 2, "is a device or a pipe"),
    Call(
        "demo --playground delta_net --out text.txt/page.html",
        2,
        "is a file, and a folder is expected",
    ),
    Call("check model --ids '1 2' --out earlier", 2, "holds a run with another input"),
)
STATE = (
    Call("state", 2, "Missing argument"),
    Call("state modle --ids '1 2'", 2, "Did you mean model?"),
    Call("state model", 2, "exactly one of --text, --ids and --file"),
    Call("state model --ids '1 32'", 2, "but token 1 of the input is 32"),
    Call("state short --ids '1 2 3 4 5 6 7 8 9'", 2, "reads at most 8 tokens"),
    Call("state model --ids '1 2' --layers ,", 2, "'--layers'"),
    Call("state model --ids '1 2' --layers 99", 2, "is none of the 2 layers"),
    Call("state model --ids '1 2' --maps 0", 2, "'--maps'"),
    Call("state model --ids '1 2' --maps many", 2, "--maps"),
    Call("state model --ids '1 2' --dtype float31", 2, "'--dtype'"),
    Call("state model --ids '1 2' --out text.txt", 2, "is a file, and a folder is expected"),
    Call("state model --ids '1 2' --out model", 2, "is the folder of the model"),
)
CAUSES = (
    Call("attribute model --ids '1 2'", 2, "--target"),
    Call("attribute model --ids '1 2' --target Paris", 2, "--target"),
    Call("attribute model --ids '1 2' --target ''", 2, "--target"),
    Call("attribute model --ids '1 2' --target ٣", 2, "--target"),
    Call("attribute model --ids '1 2' --target 3 --position end", 2, "'--position'"),
    Call("attribute model --ids '1 2' --target 3 --position=-3", 2, "from -1 to -2"),
    Call("attribute spoken --text a --target Paris", 2, "knows no token 'Paris'", runs=True),
    Call("attribute model --ids '1 2' --target 99", 2, "--target"),
    Call("attribute model --ids '1 2' --target 3 --against 99", 2, "--against"),
    Call("attribute model --ids '1 2' --target 3 --against 3", 2, "--target"),
    Call("attribute model --text hello --target ' x'", 2, "has no tokenizer"),
    Call("attribute model --ids '1 2' --target 3 --position 2", 2, "from 0 to 1"),
    Call("attribute model --ids '1 2' --target 3 --top 0", 2, "'--top'"),
    Call("attribute model --ids '1 2' --target 3 --paths=-1", 2, "'--paths'"),
    Call("intervene model --ids '1 2'", 2, "expected an edit"),
    Call("intervene model --ids '1 2' --edit 'cutt layers=0'", 2, "is not an edit"),
    Call("intervene model --ids '1 2' --edit 'cut layers'", 2, "--edit"),
    Call("intervene model --ids '1 2' --edit 'cut layers=0 reed=1'", 2, "has no field 'reed'"),
    Call("intervene model --ids '1 2' --edit 'window layers=0'", 2, "'width'"),
    Call("intervene model --ids '1 2' --edit 'window layers=0 width=x'", 2, "a whole number"),
    Call("intervene model --ids '1 2' --edit 'map-from layers=0'", 2, "--other-text"),
    Call("intervene model --ids '1 2' --edit 'sink layers=0' --target 99", 2, "--target"),
    Call("intervene model --ids '1 2' --edit 'sink layers=0' --against 3", 2, "--against"),
    Call("intervene model --ids '1 2' --edit 'sink layers=0' --position 5", 2, "from 0 to 1"),
    Call("intervene model --ids '1 2' --edit 'sink layers=0' --top 0", 2, "'--top'"),
    Call("intervene model --ids '1 2' --edit 'ablate layers='", 2, "layers="),
    Call("intervene model --ids '1 2' --edit 'window layers=0 width=1_0'", 2, "a whole number"),
    Call("intervene model --ids '1 2' --edit 'scale layers=0 factor=1_0'", 2, "'factor'"),
    Call("intervene model --ids '1 2' --edit 'ablate layers=0 layers=1'", 2, "'layer'"),
    Call(
        "intervene model --ids '1 2' --edit 'map-from layers=0 other=b' --other-ids '1 3'",
        2,
        "'other'",
    ),
    Call("intervene model --ids '1 2' --edit 'ablate layers=99'", 2, "is none of"),
    Call("intervene model --ids '1 2' --edit 'forget layers=0'", 2, "'token'"),
    Call(
        "intervene model --ids '1 2' --edit 'sink layers=0' --other-ids '1 3'",
        2,
        "--other-text",
    ),
    Call("intervene model --ids '1 2' --edit 'ablate layers=0 heads=7'", 2, "none of"),
    Call("intervene model --ids '1 2' --edit 'forget layers=0 token=5'", 2, "from 0 to 1"),
    Call(
        "intervene model --ids '1 2' --edit 'state-from layers=0 token=0' --other-ids '1 3'",
        2,
        "has no recurrent state that goes on from token to token",
        runs=True,
    ),
    Call(
        "intervene model --ids '1 2' --edit 'map-from layers=0' --other-ids '1 3 5'",
        2,
        "Both prompts must have the same length",
        runs=True,
    ),
    Call("intervene model --ids '1 2' --edit 'window layers=0 width=0'", 2, "'width'"),
    Call("intervene model --ids '1 2' --edit 'cut layers=0 key=2'", 2, "from 0 to 1"),
    Call("intervene model --ids '1 2' --edit 'cut layers=0 key=2:1'", 2, "has an empty range"),
    Call("intervene model --ids '1 2' --edit 'cut layers=0 samples=1'", 2, "'samples'"),
    Call(
        "intervene model --ids '1 2' --edit 'reduce layers=0 token=0 order=1'",
        2,
        "nothing to remember",
        runs=True,
    ),
    Call("intervene model --ids '1 2' --edit 'scale layers=0 factor=inf'", 2, "must be finite"),
    Call("heads model", 2, "--random-repeat 50"),
    Call("heads model --random-repeat 1", 2, "at least 2"),
    Call("heads model --random-repeat 2.5", 2, "'--random-repeat'"),
    Call("heads model --random-repeat 99999999999999999999", 2, "'--random-repeat'"),
    Call("heads model --ids '1 2' --random-repeat 5", 2, "got 2"),
    Call("heads model --ids '1 2' --top 0", 2, "'--top'"),
    Call("heads model --ids '1 2' --layers 9:1", 2, "'--layers'"),
    Call("heads short --random-repeat 50", 2, "reads at most 8 tokens"),
    Call("compare model", 2, "Missing argument"),
    Call("compare model short", 2, "exactly one of --text, --ids and --file"),
    Call("compare modle short --ids '1 2'", 2, "Did you mean model?"),
    Call("compare model nowhere/else --ids 1 --offline", 2, "from the local cache only"),
    Call("compare model short --ids '1 2' --other-ids 1 --other-text a", 2, "exclude each other"),
    Call("compare model short --ids '1 2' --other-ids '1 99'", 2, "token 1 of the input is 99"),
    Call("compare model short --ids '1 2' --layers ,", 2, "'--layers'"),
)
SWEEPS = (
    Call(sweep("--edit 'ablate layers=0'", target=None), 2, "--sweep"),
    Call(sweep(""), 2, "expected an edit"),
    Call("intervene model --ids '1 2' --edit 'sink layers=0' --each layers", 2, "add --sweep"),
    Call("intervene model --ids '1 2' --edit 'sink layers=0' --resume a", 2, "add --sweep"),
    Call(sweep("--each rows --edit 'ablate layers=0'"), 2, "--each"),
    Call(sweep("--each layers,layers --edit 'ablate layers=0'"), 2, "--each"),
    Call(sweep("--each heads --edit 'ablate layers=0'"), 2, "--each"),
    Call(sweep("--each layers --edit 'ablate layers=1:'"), 2, "--each"),
    Call(sweep("--each key --edit 'cut layers=0 key=0:999999'"), 2, "at most 100000"),
    Call(sweep("--edit 'ablate layers=0' --resume empty"), 2, "is a folder"),
    Call(sweep("--edit 'ablate layers=0' --resume /dev/null"), 2, "is a device or a pipe"),
    Call(sweep("--edit 'ablate layers=0' --resume astray"), 2, "is a link that leads nowhere"),
    Call(sweep("--edit 'ablate layers=0' --top 0"), 2, "'--top'"),
    Call(sweep("--edit 'ablate layers=0' --resume text.txt"), 2, "is not a record", runs=True),
    Call(sweep("--edit 'ablate layers=0' --resume a.jsonl"), 2, "is of another model", runs=True),
    Call(sweep("--edit 'sink layers=0' --edit 'sink layers=9'"), 2, "layers: 9 is none of"),
    Call(sweep("--each heads --edit 'ablate layers=0 heads=0:3'"), 2, "heads: 2 is none of"),
)
OTHERS = (
    Call("check model --ids '1 2' --require causl", 2, "Did you mean causal?"),
    Call("check model --ids '1 2' --root 00", 2, "--root is for the folder of a run"),
    Call("check nowhere", 2, "is not a folder of a run"),
    Call("check ''", 2, "MODEL is empty"),
    Call("check run --root 00", 2, "64 hexadecimal digits"),
    Call("check run --exact", 2, "MODEL is the folder of a run"),
    Call("check run --out elsewhere", 2, "MODEL is the folder of a run"),
    Call("check run --ids '1 2'", 2, "is the folder of a run, which is checked"),
    Call("check run", 1, "manifest", runs=True),
    Call("measure model nowhere.txt", 2, "'prompts'"),
    Call("measure model empty.txt", 2, "PROMPTS"),
    Call("measure model binary.txt --ids", 2, "PROMPTS"),
    Call("measure model words.txt --ids", 2, "line 2"),
    Call("measure model far.txt --ids", 2, "line 2: model reads one or more numbers from 0 to 31"),
    Call("measure model prompts.txt", 2, "add --ids"),
    Call("measure model prompts.txt --ids --quantity half-life", 2, "Did you mean half_life?"),
    Call("measure model prompts.txt --ids --batch 0", 2, "'--batch'"),
    Call("measure model prompts.txt --ids --workers 0", 2, "'--workers'"),
    Call("measure model prompts.txt --ids --workers 99999", 2, "at most 1024"),
    Call("measure model prompts.txt --ids --workers 2 --slurm logs", 2, "exclude each other"),
    Call("measure model prompts.txt --ids --out foreign_job", 2, "'foreign_job'"),
    Call("measure model prompts.txt --ids --heads 7 --out job1", 1, "units failed", runs=True),
    Call("audit model", 2, "exactly one of --text, --ids and --file"),
    Call("audit model --ids '1 2' --decode 0", 2, "'--decode'"),
    Call("audit model --ids '1 2' --decode 2", 2, "1 to 1 of the 2 tokens", runs=True),
    Call("audit model --ids '1 2' --chunk x", 2, "'--chunk'"),
    Call("audit model --ids '1 2' --dtype float8", 2, "'--dtype'"),
    Call("audit model --ids '1 2' --recorded nowhere", 2, "'--recorded'"),
    Call("audit model --ids '1 2' --recorded empty --decode 1", 2, "exclude each other"),
    Call("audit model --ids '1 2' --suspect broken", 2, "broken"),
    Call("audit model --ids '1 2' --against 3", 2, "--against"),
    Call("audit model --ids '1 2' --out ledger.doc", 2, "--out"),
    Call("demo --playground delta_nett", 2, "Did you mean delta_net"),
    Call("demo --playground delta_net --out empty", 2, "is a folder"),
    Call("demo --playground delta_net --out=", 2, "'--out'"),
    Call("demo --out text.txt", 2, "is a file, and a folder is expected"),
    Call("demo --out model", 2, "holds the files of a model"),
    Call("demo --out holder", 2, "holds a run with another weights"),
    Call("demo --out earlier", 2, "holds a run of dsf check"),
    Call("measure model prompts.txt --ids --out short", 2, "holds the files of a model"),
    Call("state model --ids '1 2' --out short", 2, "holds the files of a model"),
    Call("doctor --out text.txt", 2, "is a file, and a folder is expected"),
    Call("doctor --out astray", 2, "is a link that leads nowhere"),
)
GROUPS = {
    "The command and its options": COMMANDS,
    "The model": MODELS,
    "The input": INPUTS,
    "What is looked at": OPTIONS,
    "Where the answer goes": OUTPUTS,
    "What a state holds": STATE,
    "Causes and comparisons": CAUSES,
    "Many edits, one by one": SWEEPS,
    "Other commands": OTHERS,
}
CALLS: tuple[Call, ...] = tuple(call for group in GROUPS.values() for call in group)


def prepare(place: Path) -> None:
    """Make the folders and files that the calls speak of."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    gpt2 = GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2, **ends)
    plain = ("model", "nan", "torn", "unfinished", "zero", "pickled", "shards")
    for name in (*plain, "webpage", "tied", "mistyped", "taller", "lower"):
        LlamaForCausalLM(llama).save_pretrained(place / name)
    for name in ("short", "spoken"):
        GPT2LMHeadModel(gpt2).save_pretrained(place / name)
    read = Tokenizer(WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    read.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=read, unk_token="?").save_pretrained(place / "spoken")
    changed = {
        "mistyped": {"hidden_size": "16"},
        "taller": {"num_hidden_layers": 3},
        "lower": {"num_hidden_layers": 1},
    }
    for name, change in changed.items():
        settings = json.loads((place / name / "config.json").read_text()) | change
        (place / name / "config.json").write_text(json.dumps(settings))
    (place / "webpage/model.safetensors").write_text("<!DOCTYPE html><p>404: not found")
    (place / "tied/model.safetensors").unlink()
    (place / "tied/model.safetensors").symlink_to(place / "model/model.safetensors")
    weights = load_file(place / "nan/model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][0, 0] = torch.nan
    save_file(weights, place / "nan/model.safetensors", metadata={"format": "pt"})
    whole = (place / "torn/model.safetensors").read_bytes()
    (place / "torn/model.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("unfinished", "zero", "pickled", "shards"):
        (place / name / "model.safetensors").unlink()
    (place / "zero/model.safetensors").touch()
    (place / "pickled/pytorch_model.bin").touch()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (place / "shards/model.safetensors.index.json").write_text(json.dumps(index))
    for name, content in FILES.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in ("empty", "run/units", "taken/report.html", "foreign_job/units"):
        (place / name).mkdir(parents=True)
    (place / "astray").symlink_to(place / "nothing")


FILES = {
    "text.txt": b"hello",
    "empty.txt": b"",
    "binary.txt": bytes(range(256)),
    "latin.txt": "Grüße".encode("latin-1"),
    "zeros.txt": b"a\0b",
    "prompts.txt": b"1 2 3\n4 5 6\n",
    "words.txt": b"1 2\n1 two\n",
    "far.txt": b"1 2\n3 99\n",
    "fake.gguf": b"nothing of the kind",
    "empty.gguf": b"",
    "a.jsonl": b'{"dsf_sweep": 2, "of": {}, "clean": [0.0]}\n',
    "other/config.json": b'{"a": 1}',
    "broken/config.json": b'{"model_type":',
    "list/config.json": b"[]",
    "bytes/config.json": bytes(range(256)),
    "foreign/config.json": b'{"model_type": "unheard"}',
    "foreign/model.safetensors": b"\2\0\0\0\0\0\0\0{}",
    "run/manifest.json": b"{}",
    "job/job.json": b"{}",
    "holder/run/manifest.json": b'{"source": {"weights": "sha256 00"}}',
    "earlier/manifest.json": b'{"source": {"input": "sha256 00"}}',
}


SCRIPT = """
import contextlib, io, json, sys, time
from dsf.cli import main
for arguments in json.load(sys.stdin):
    out, err, code, begun = io.StringIO(), io.StringIO(), None, time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as exit:
            code = exit.code
    seconds = time.process_time() - begun
    heavy = [name for name in ("torch", "transformers") if name in sys.modules]
    answer = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    print(json.dumps({**answer, "seconds": seconds, "heavy": heavy}))
"""


@dataclass(frozen=True)
class Outcome:
    """The answer to a call.

    Attributes:
        seconds: processor time of the call, without the start of Python.
        heavy: packages that take seconds to import and were imported in its process.
    """

    code: int
    out: str
    err: str
    seconds: float
    heavy: list[str]


def outcomes(calls: Iterable[Sequence[str]], place: Path) -> list[Outcome]:
    """Run calls one after the other in one process, in a folder that ``prepare`` made."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        input=json.dumps(list(calls)),
        capture_output=True,
        text=True,
        check=True,
    )
    return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


def table(rows: Iterable[tuple[Call, Outcome]]) -> Iterator[str]:
    """The rows of one group in Markdown."""
    yield "| call | says | exit code | seconds |"
    yield "|---|---|---|---|"
    for call, found in rows:
        yield (
            f"| `dsf {_cell(call.words)}` | {_cell(_message(found.err or found.out))} | "
            f"{found.code} | {found.seconds:.1f} |"
        )


def _message(output: str) -> str:
    """The message without the usage lines that the parser prints around it."""
    every = output.splitlines()
    lines = [line for line in every if line and not line.startswith(("Usage", "Try "))]
    return " ".join(lines).removeprefix("Error: ")


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def page(rows: dict[str, list[tuple[Call, Outcome]]]) -> str:
    """The whole page."""
    from dsf.cli.command import IN_WORDS

    every = [row for group in rows.values() for row in group]
    early = [found.seconds for call, found in every if not call.runs]
    codes = "\n".join(f"| {code} | {words} |" for code, words in IN_WORDS.items())
    parts = [HEAD.format(calls=len(every), early=len(early), slowest=max(early), codes=codes)]
    parts += [f"## {name}\n\n" + "\n".join(table(group)) + "\n" for name, group in rows.items()]
    return "\n".join(parts)


HEAD = """# Wrong calls

What the command line says to {calls} wrong calls. Errors that need no model
are raised before torch is imported: {early} of them, the slowest after {slowest:.1f} s of
processor time (Python itself starts in about 0.1 s). With `--json` every message is
`{{"error": {{"kind": ..., "message": ...}}}}` in the one object on standard output. This page is
written by `python -m docs.wrong_calls`, which runs every call; the tests run them, too.

| exit code | says |
|---|---|
{codes}

In the folder of these calls lie `model` (a Llama of two layers that knows 32 tokens), `short` (a
GPT-2 that reads at most 8 tokens), `spoken` (the same with a tokenizer), and damaged folders and
files with the names of their damage.
"""


def main() -> None:
    """Run every call and write the page."""
    with tempfile.TemporaryDirectory(prefix="dsf-") as name:
        place = Path(name)
        prepare(place)
        found: dict[Call, Outcome] = {}
        for runs in (False, True):  # with a model last: torch stays imported from there on
            calls = [call for call in CALLS if call.runs is runs]
            answers = outcomes([call.arguments for call in calls], place)
            found.update(zip(calls, answers, strict=True))
        rows = {
            title: [
                (call, replace(found[call], err=found[call].err.replace(name, "…")))
                for call in group
            ]
            for title, group in GROUPS.items()
        }
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
