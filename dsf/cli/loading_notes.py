"""What was noticed while a checkpoint was loaded, such as weights without a place in its model."""

from collections.abc import Iterable
from dataclasses import replace

from dsf.cli.answer import Answer
from dsf.inspection import Inspection
from dsf.report.escaping import escaped

LONGEST = 2000


def with_notes(answer: Answer, notes: Iterable[str], *, of: str = "") -> Answer:
    """The answer with one more line, and with ``on_loading`` in its JSON, if there are notes.

    Args:
        of: which model they are about, where there are two.
    """
    told = escaped(" ".join(notes), most=LONGEST)
    if not told:
        return answer
    where = escaped(of)

    def show() -> None:
        answer.show()
        print(f"on loading {where}: {told}" if where else f"on loading: {told}")

    earlier = answer.facts.get("on_loading")
    together = " ".join(filter(None, (earlier, f"{where}: {told}" if where else told)))
    return replace(answer, show=show, facts={**answer.facts, "on_loading": together})


def notes_of(inspection: Inspection) -> list[str]:
    """Those of the checkpoint that was inspected."""
    return [note for note in (inspection.environment.get("on loading"),) if note]
