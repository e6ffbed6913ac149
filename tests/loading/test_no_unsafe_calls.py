"""No file of the package unpickles, evaluates text or trusts code that comes with a model."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dsf"
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
UNSAFE_VALUES = {"weights_only": False, "allow_pickle": True, "trust_remote_code": True}
LOADS_ARCHIVES = {("torch", "load"), ("jit", "load"), ("joblib", "load"), ("np", "load")}
SAFELY = "weights_only"


def unsafe(tree):
    """What is unsafe in a syntax tree, as words."""
    guarded = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and SAFELY in {keyword.arg for keyword in node.keywords}
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in UNPICKLERS:
                yield node.module
        elif isinstance(node, ast.Name) and node.id in RUNS_TEXT | UNPICKLERS:
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if (owner, node.attr) in LOADS_ARCHIVES and id(node) not in guarded:
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in UNSAFE_VALUES:
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if value is not (not UNSAFE_VALUES[node.arg]):
                yield f"{node.arg}={ast.unparse(node.value)}"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_unsafe(path):
    assert list(unsafe(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "def late():\n    from dill import load",
        "eval('1')",
        "run = exec",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.jit.load(path)",
        "read(path, weights_only=False)",
        "read(path, weights_only=flag)",
        "read(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=None)",
    ],
)
def test_a_planted_call_is_seen(code):
    assert list(unsafe(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["model.eval()", "torch.load(path, weights_only=True)", "re.compile('a')"]
)
def test_harmless_calls_are_let_through(code):
    assert list(unsafe(ast.parse(code))) == []
