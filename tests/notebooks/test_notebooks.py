"""Every notebook runs in a fresh kernel; its exercises fail as they are given and pass solved."""

import re
import time

import nbformat
import pytest

jupytext = pytest.importorskip("jupytext", reason='needs pip install "dsf-toolkit[notebooks]"')
nbclient = pytest.importorskip("nbclient", reason='needs pip install "dsf-toolkit[notebooks]"')

from notebooks.make_notebooks import (  # noqa: E402
    exercises,
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
UNANSWERED = ("NotImplementedError", "AssertionError")


def names(path):
    return path.stem


@pytest.fixture(params=SCRIPTS, ids=names)
def script(request):
    return request.param


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in tags(cell)]


def test_the_course_is_complete():
    numbers = [int(path.name[:2]) for path in SCRIPTS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_notebook_on_disk_is_the_one_of_its_script(script):
    """Otherwise run ``make notebooks``."""
    assert script.with_suffix(".ipynb").read_text(encoding="utf-8") == written(script)


def test_no_notebook_without_its_script():
    made = {path.with_suffix(".py") for path in SCRIPTS[0].parent.glob("*.ipynb")}
    assert made == set(SCRIPTS)


def test_a_reader_gets_all_but_the_solutions(script):
    whole, given = solved(script), exercises(solved(script))
    assert len(tagged(whole, "solution")) == len(tagged(whole, "check")) == 3
    for before, after in zip(whole.cells, given.cells, strict=True):
        assert (before.source == after.source) == ("solution" not in tags(before))
    assert [cell.outputs for cell in given.cells if cell.cell_type == "code" and cell.outputs] == []


def tried_before_solved(script):
    """The notebook, every check run twice: on what a reader is given, then on the solution."""
    cells = []
    given = exercises(solved(script)).cells
    checks = (cell for cell in given if "check" in tags(cell))
    for whole, empty in zip(solved(script).cells, given, strict=True):
        if "solution" in tags(whole):
            check = nbformat.from_dict(next(checks))
            check.metadata.tags = ["unanswered", "raises-exception"]
            cells += [nbformat.from_dict({**empty, "metadata": {}}), check]
        cells.append(whole)
    cells.append(nbformat.v4.new_code_cell(SPENT))
    for number, cell in enumerate(cells):
        cell.id = f"cell{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata=solved(script).metadata)


def printed(cell):
    return "".join(part.text for part in cell.outputs if part.output_type == "stream")


@pytest.mark.slow
def test_it_runs_and_its_exercises_fail_until_they_are_solved(script, capsys):
    """A cell that raises stops the run, apart from checks of exercises that nobody has solved."""
    if "dsf.models" in script.read_text(encoding="utf-8"):
        pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    if '"smollm2"' in script.read_text(encoding="utf-8") and fetched("smollm2") is None:
        pytest.skip("needs a trained model: python tests/pretrained/fetch.py smollm2")
    notebook = tried_before_solved(script)
    client = nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {}}
    )
    begun = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - begun
    spent = float(printed(notebook.cells[-1]))
    with capsys.disabled():
        print(f"\n    {script.stem}: {seconds:.1f} s, {spent:.1f} s of work", flush=True)
    assert spent < SECONDS
    for cell in tagged(notebook, "unanswered"):
        errors = [part.ename for part in cell.outputs if part.output_type == "error"]
        assert [name in UNANSWERED for name in errors] == [True], cell.source
    for verdict in ("proved", "refuted"):
        found = [printed(cell) for cell in tagged(notebook, verdict)]
        assert found, f"no cell is tagged '{verdict}'"
        said = re.compile(rf"{verdict.upper()}[^(\n]* \((data|real|float)\)")
        assert all(said.search(text) for text in found)


def test_a_solution_keeps_its_signature_and_loses_its_body():
    source = 'def half(x):\n    """Half of it."""\n    return x / 2\n\n\nanswer = half(3)\n'
    assert unsolved(source) == (
        'def half(x):\n    """Half of it."""\n    raise NotImplementedError("yours to write")'
        "\n\n\nanswer = ...  # yours to write"
    )
    with pytest.raises(ValueError, match=r"line 1 is 'print\(3\)'"):
        unsolved("print(3)")
