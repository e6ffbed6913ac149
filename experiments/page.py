"""Tables in Markdown, and the one place of a page that a script may rewrite."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dsf.runtime.files import replace_file

BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of ``page``.

    Raises:
        ValueError: if the page has no such marks.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"put_into: {page.name} must hold the lines '{BEGIN.strip()}' and '{END}', but at "
            f"least one is missing. Write them where the table belongs."
        )
    whole = f"{before}{BEGIN}{text}\n{END}{after}"
    replace_file(page, lambda draft: draft.write_text(whole, encoding="utf-8"))
