"""Whether a folder holds the run of another model or input, which is not written over."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsf.cli.output_place import RUN_NAMES
from dsf.cli.prompt import Prompt, fingerprint
from dsf.runtime.files import read_inside

OWN_NAMES = ("units", "metrics.csv", "metrics.json", "verdicts.csv", "verdicts.json")
LARGEST = 64 << 20
KEYS = ("weights", "configuration", "input")
"""By which a run is known; the path of a model may be written in many ways."""


def is_run(path: Path) -> bool:
    """Whether a folder is one that ``checked_run`` wrote."""
    return (path / "manifest.json").is_file() and (path / "units").is_dir()


def known_source(prompt: Prompt) -> dict[str, str]:
    """Where the run of a command will come from, as far as it is known before the model."""
    numbers = prompt.numbers
    return {} if numbers is None else {"input": fingerprint(numbers)}


def check_not_of_another(folder: Path, source: Mapping[str, str]) -> None:
    """Raise if the run in ``folder`` is known to come from something else.

    Args:
        source: what is known of where the new run comes from: some of ``KEYS``.

    Raises:
        ValueError: if there is a run of something else.
    """
    there = _source(folder)
    other = [key for key in KEYS if _differ(there.get(key), source.get(key))]
    if other:
        raise ValueError(
            f"--out {str(folder)!r}: holds a run with another {' and another '.join(other)}, which "
            "is not written over. Give another folder, or remove this one first."
        )


def check_not_foreign(folder: Path) -> None:
    """Raises ValueError if the folder has what no run wrote, under the names of a run."""
    if not any((folder / name).exists() for name in RUN_NAMES):
        foreign = [name for name in OWN_NAMES if (folder / name).exists()]
        if foreign:
            raise ValueError(
                f"--out {str(folder)!r}: has {', '.join(foreign)}, but no {RUN_NAMES[0]}, so no "
                "run wrote them. Give another folder."
            )


def _differ(one: Any, other: Any) -> bool:
    return one is not None and other is not None and one != other


def _source(folder: Path) -> dict[str, Any]:
    """Where the run in the folder comes from; empty where nothing says it."""
    for name in RUN_NAMES:
        try:
            found = json.loads(read_inside(folder, name, LARGEST))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("source"), dict):
            return dict(found["source"])
    return {}
