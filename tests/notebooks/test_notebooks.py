"""Every notebook runs in a fresh kernel; its exercises are open as given, and pass solved."""

import ast
import re
import shutil
import time

import nbformat
import pytest

jupytext = pytest.importorskip("jupytext", reason='needs pip install "dsf-toolkit[notebooks]"')
nbclient = pytest.importorskip("nbclient", reason='needs pip install "dsf-toolkit[notebooks]"')

from notebooks.make_notebooks import (  # noqa: E402
    HERE,
    KINDS,
    closed,
    for_students,
    for_teachers,
    place,
    scripts,
    solved,
    tags,
    unsolved,
    written,
)
from tests.pretrained.fetch import found as fetched  # noqa: E402

SCRIPTS = scripts()
SECONDS = 60  # of work; other programs on the machine do not count
SPENT = "import time\n\nprint(time.process_time())"
TURN = """
def in_single(answer):
    import numpy, torch

    def single(value):
        if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
            return value.float()
        if type(value) is float:
            return float(numpy.float32(value))
        return tuple([single(part) for part in value]) if type(value) is tuple else value

    return lambda *given, **named: single(answer(*given, **named))


for name in {names}:
    globals()[name] = in_single(globals()[name])
"""


def names(path):
    return path.stem


@pytest.fixture(params=SCRIPTS, ids=names)
def script(request):
    return request.param


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in tags(cell)]


def functions(source):
    return [each.name for each in ast.parse(source).body if isinstance(each, ast.FunctionDef)]


def test_the_course_is_complete():
    numbers = [int(path.name[:2]) for path in SCRIPTS]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_notebook_on_disk_is_the_one_of_its_script(script, kind):
    """Otherwise run ``make notebooks``."""
    assert place(script, kind).read_text(encoding="utf-8") == written(script, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_handed_out_alone_has_its_checks(kind):
    """Otherwise run ``make notebooks``."""
    assert (HERE / kind / "exercises.py").read_bytes() == (HERE / "exercises.py").read_bytes()


def test_no_notebook_without_its_script():
    made = set(HERE.rglob("*.ipynb"))
    assert made == {place(script, kind) for script in SCRIPTS for kind in KINDS}


def test_a_student_gets_all_but_the_solutions(script):
    whole, given = for_teachers(solved(script)), for_students(solved(script))
    counts = [len(tagged(whole, tag)) for tag in ("solution", "check", "hints")]
    assert counts == [3, 3, 3]
    for before, after in zip(whole.cells, given.cells, strict=True):
        assert (before.source == after.source) == ("solution" not in tags(before))
        assert "# %%" not in after.source
    for notebook in (whole, given):
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.outputs for cell in code if cell.outputs] == []


def test_a_check_is_the_same_inside_its_exercise(script):
    """Indenting changes no text that stands over several lines."""
    for plain, soft in zip(
        tagged(solved(script), "check"), tagged(for_teachers(solved(script)), "check"), strict=True
    ):
        inside = ast.parse(soft.source).body[1].body
        assert [ast.dump(each) for each in inside] == [
            ast.dump(each) for each in ast.parse(plain.source).body
        ]


def test_open_exercises_leave_the_other_cells_alone(script):
    """What an exercise or its check defines is used by no other cell."""
    notebook = solved(script)
    owned = {name for cell in tagged(notebook, "solution") for name in functions(cell.source)}
    for cell in notebook.cells:
        if cell.cell_type != "code" or {"solution", "check"} & set(tags(cell)):
            continue
        used = {each.id for each in ast.walk(ast.parse(cell.source)) if isinstance(each, ast.Name)}
        assert not used & owned


def tried(script):
    """A student's run: each check on what is given, on the solution, and on it in float32."""
    cells = []
    given, whole = for_students(solved(script)).cells, for_teachers(solved(script)).cells
    checks = (cell for cell in given if "check" in tags(cell))
    for empty, full in zip(given, whole, strict=True):
        if "solution" in tags(full):
            check = next(checks)
            turn = TURN.format(names=functions(full.source))
            single = nbformat.v4.new_code_cell(turn)
            cells += [plain(empty), plain(check, "open"), full, plain(check, "solved")]
            cells += [single, plain(check, "float32"), plain(full)]
        elif "check" not in tags(full):
            cells.append(full)
    cells.append(nbformat.v4.new_code_cell(SPENT))
    for number, cell in enumerate(cells):
        cell.id = f"cell{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata=solved(script).metadata)


def plain(cell, *tags_):
    return nbformat.from_dict({**cell, "metadata": {"tags": list(tags_)}})


def printed(cell):
    return "".join(part.text for part in cell.outputs if part.output_type == "stream")


@pytest.mark.sampled(count=6)
@pytest.mark.slow
def test_it_runs_and_its_exercises_are_open_until_they_are_solved(script, capsys):
    """A cell that raises stops the run; an open exercise does not."""
    text = script.read_text(encoding="utf-8")
    if "dsf.models" in text:
        pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    if "dsf.show(" in text:
        pytest.importorskip("anywidget", reason='needs pip install "dsf-toolkit[notebooks]"')
    if '"smollm2"' in text and fetched("smollm2") is None:
        pytest.skip("needs a trained model: python tests/pretrained/fetch.py smollm2")
    notebook = tried(script)
    client = nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": HERE}}
    )
    begun = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - begun
    spent = float(printed(notebook.cells[-1]))
    outputs = [part for cell in notebook.cells for part in cell.get("outputs", ())]
    warned = [part.text for part in outputs if part.get("name") == "stderr"]
    assert [text for text in warned if "compiles loops" not in text] == []
    shown = [part["data"].get("text/plain", "") for part in outputs if "data" in part]
    assert [text for text in shown if "%|" in text] == [], "a progress bar"
    with capsys.disabled():
        print(f"\n    {script.stem}: {seconds:.1f} s, {spent:.1f} s of work", flush=True)
    assert spent < SECONDS
    for word, said in (("open", "open. Write"), ("solved", "right"), ("float32", "right")):
        for number, cell in enumerate(tagged(notebook, word), 1):
            assert f"exercise {number}: {said}" in printed(cell), (word, printed(cell))
    for verdict in ("proved", "refuted"):
        found = [printed(cell) for cell in tagged(notebook, verdict)]
        assert found, f"no cell is tagged '{verdict}'"
        said = re.compile(rf"{verdict.upper()}[^(\n]* \((data|real|float)\)")
        assert all(said.search(text) for text in found)


@pytest.mark.slow
@pytest.mark.parametrize("number", [16])
def test_without_its_model_a_notebook_runs_on_a_smaller_one(number, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    monkeypatch.setenv("DSF_PRETRAINED", str(tmp_path / "nothing"))
    shutil.copy(HERE / "exercises.py", tmp_path)
    notebook = for_students(solved(SCRIPTS[number - 1]))
    nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    told = " ".join(printed(cell) for cell in notebook.cells if cell.cell_type == "code")
    assert "SmolLM2 is not here, so a small model of the package takes its place" in told
    assert told.count(": open. ") == 3
    assert "exercise 3: open. It goes on with 'period'" in told


def test_a_solution_keeps_its_signature_and_loses_its_body():
    source = 'def half(x):\n    """Half of it."""\n    return x / 2\n\n\nanswer = half(3)\n'
    assert unsolved(source) == (
        'def half(x):\n    """Half of it."""\n    raise NotImplementedError("yours to write")'
        "\n\n\nanswer = ...  # yours to write"
    )
    with pytest.raises(ValueError, match="line 1"):
        unsolved("print(3)")


def test_hints_are_closed_one_by_one():
    assert closed("- a $x$\n  b\n- c") == (
        "<details><summary>Hint 1</summary>\n\na $x$ b\n\n</details>\n\n"
        "<details><summary>Hint 2</summary>\n\nc\n\n</details>"
    )
    with pytest.raises(ValueError, match="hints"):
        closed("- only one")


def test_the_pages_have_the_module_that_notebooks_import():
    from docs.building.copies import pages

    module = (HERE / "students" / "exercises.py").read_text(encoding="utf-8")
    assert dict(pages())["notebooks/exercises.py"] == module
