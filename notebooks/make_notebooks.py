"""The notebooks of students and of teachers, from the scripts in this folder.

    python notebooks/make_notebooks.py

A script ``NN_title.py`` holds everything once and runs as it is. ``teachers/NN_title.ipynb`` is the
same as a notebook; in ``students/NN_title.ipynb`` every cell tagged ``solution`` has its bodies
taken out. What the tags of cells mean:

``solution``: functions that a student writes.

``check``: assertions about an answer. In both notebooks they run inside ``exercises.exercise``, so
that an open exercise is reported and stops nothing. Each folder has its own copy of ``exercises.py``.

``hints``: a list, from a nudge to nearly the line of code. In both notebooks its items are closed
until they are clicked.

``proved``, ``refuted``: cells with a verdict.

No notebook has outputs. Cell ids follow from the text, so making the notebooks again changes
nothing.
"""

import ast
import hashlib
import textwrap
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
TO_WRITE = 'raise NotImplementedError("yours to write")'


def scripts() -> list[Path]:
    """The source of every notebook, in the order of the course."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def solved(script: Path) -> NotebookNode:
    """The notebook with its solutions."""
    read = jupytext.read(script, fmt="py:percent")
    return _plain(read.cells)


def for_teachers(notebook: NotebookNode) -> NotebookNode:
    """The notebook with closed hints, and checks that stop nothing."""
    cells, checks = [], 0
    for cell in notebook.cells:
        source = cell.source
        if "check" in tags(cell):
            checks += 1
            source = soft(source, checks)
        elif "hints" in tags(cell):
            source = closed(source)
        cells.append(nbformat.from_dict({**cell, "source": source}))
    return _plain(cells)


def for_students(notebook: NotebookNode) -> NotebookNode:
    """The notebook of teachers with every solution to be written."""
    cells = []
    for cell in for_teachers(notebook).cells:
        source = unsolved(cell.source) if "solution" in tags(cell) else cell.source
        cells.append(nbformat.from_dict({**cell, "source": source}))
    return _plain(cells)


def soft(check: str, number: int) -> str:
    """The check inside ``exercise``."""
    body = textwrap.indent(check, "    ")
    return f"from exercises import exercise\n\nwith exercise({number}):\n{body}"


def closed(hints: str) -> str:
    """A list of hints, each to be opened by a click.

    Raises:
        ValueError: if there are fewer than two hints.
    """
    items = [" ".join(item.split()) for item in hints.removeprefix("- ").split("\n- ")]
    if len(items) < 2:
        raise ValueError(f"closed: graded hints are at least two, but this is '{hints}'.")
    return "\n\n".join(
        f"<details><summary>Hint {number}</summary>\n\n{item}\n\n</details>"
        for number, item in enumerate(items, 1)
    )


def unsolved(source: str) -> str:
    """Functions keep their signature and docstring, names lose their value.

    Raises:
        ValueError: if a solution holds anything else.
    """
    lines = source.splitlines()
    kept = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.FunctionDef):
            kept.append("\n".join([*_head(statement, lines), f"    {TO_WRITE}"]))
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            kept.append(f"{statement.targets[0].id} = ...  # yours to write")
        else:
            raise ValueError(
                f"unsolved: a solution holds functions and 'name = value' only, but line "
                f"{statement.lineno} is '{lines[statement.lineno - 1]}'."
            )
    return "\n\n\n".join(kept)


def _head(function: ast.FunctionDef, lines: list[str]) -> list[str]:
    """The lines of the signature and of the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    last = first.end_lineno if documented else first.lineno - 1
    return lines[function.lineno - 1 : last]


def _plain(cells: list[NotebookNode]) -> NotebookNode:
    """Cells without outputs, with ids that follow from their text."""
    notebook = nbformat.v4.new_notebook(metadata=KERNEL)
    seen: Counter[str] = Counter()
    for cell in cells:
        new = nbformat.v4.new_code_cell if cell.cell_type == "code" else _text
        text = f"{cell.cell_type}\n{cell.source}"
        seen[text] += 1
        id = hashlib.sha256(f"{seen[text]}\n{text}".encode()).hexdigest()[:12]
        metadata = {"tags": tags(cell)} if tags(cell) else {}
        notebook.cells.append(new(cell.source, id=id, metadata=metadata))
    return notebook


def _text(source: str, **parts: object) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source, **parts)


KINDS = {"students": for_students, "teachers": for_teachers}


def place(script: Path, kind: str) -> Path:
    """Return the path of the notebook of ``script`` for these readers."""
    return HERE / kind / f"{script.stem}.ipynb"


def written(script: Path, kind: str) -> str:
    """The text of that notebook."""
    return nbformat.writes(KINDS[kind](solved(script))) + "\n"


def main() -> None:
    checks = (HERE / "exercises.py").read_text(encoding="utf-8")
    for kind in KINDS:
        (HERE / kind).mkdir(exist_ok=True)
        (HERE / kind / "exercises.py").write_text(checks, encoding="utf-8")
        for script in scripts():
            place(script, kind).write_text(written(script, kind), encoding="utf-8")


if __name__ == "__main__":
    main()
