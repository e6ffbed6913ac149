"""The notebooks for readers, from the scripts beside this one.

    python notebooks/make_notebooks.py

A script ``NN_title.py`` holds the solutions and runs as it is. The notebook of the same name gets
every cell tagged ``solution`` with its bodies taken out, and no outputs. Cells tagged ``check``
say what is wrong with an answer. Cell ids follow from the text, so making the notebooks again
changes nothing.
"""

import ast
import hashlib
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


def exercises(notebook: NotebookNode) -> NotebookNode:
    """The same notebook with every solution to be written."""
    cells = []
    for cell in notebook.cells:
        source = unsolved(cell.source) if "solution" in tags(cell) else cell.source
        cells.append({**cell, "source": source})
    return _plain([nbformat.from_dict(cell) for cell in cells])


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


def written(script: Path) -> str:
    """The text of the notebook file that belongs to ``script``."""
    return nbformat.writes(exercises(solved(script))) + "\n"


def main() -> None:
    for script in scripts():
        script.with_suffix(".ipynb").write_text(written(script), encoding="utf-8")


if __name__ == "__main__":
    main()
