"""What can be wrong with a job before torch is imported: its prompts, folder and packages."""

import os
from importlib.util import find_spec
from pathlib import Path

from dsf.cli.model_argument import ModelFacts, check_numbers, without_tokenizer
from dsf.cli.prompt import parsed, read_text

MOST_WORKERS = 1024
"""More processes than any machine has cores; the system ends what starts far more."""
OWN_NAMES = ("units", "summary.csv")
MANIFEST = "job.json"


def prompt_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that hold a prompt, each with its number counted from 1.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no text, or no prompt.
    """
    lines = read_text("PROMPTS", path).splitlines()
    found = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ValueError(f"PROMPTS {str(path)!r}: there are no prompts; write one a line.")
    return found


def check_prompts(path: Path, facts: ModelFacts, *, ids: bool) -> None:
    """Hold every prompt against the model.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a prompt does not suit the model; the message names its line.
    """
    lines = prompt_lines(path)
    if not ids:
        if facts.tokenizer is False:
            cure = "Write the numbers of tokens into the file, and add --ids."
            raise ValueError(f"{without_tokenizer(facts.name).partition(' Give')[0]} {cure}")
        return
    for number, line in lines:
        try:
            numbers = parsed(line)
            check_numbers(numbers, facts.vocabulary, facts.name)
            facts.check_length(len(numbers))
        except ValueError as error:
            raise ValueError(f"PROMPTS {str(path)!r}, line {number}: {error}") from None


def check_job_folder(folder: Path) -> None:
    """Raises ValueError if the folder has what no job wrote, under the names of a job."""
    foreign = [name for name in OWN_NAMES if (folder / name).exists()]
    if foreign and not (folder / MANIFEST).exists():
        raise ValueError(
            f"--out {str(folder)!r}: has {', '.join(foreign)}, but no {MANIFEST}, so no job wrote "
            "them. Give another folder."
        )


def check_workers(count: int) -> None:
    """Raises ValueError for more processes than any machine has a use for."""
    if count > MOST_WORKERS:
        raise ValueError(
            f"--workers is {count}; it must be at most {MOST_WORKERS}. This machine has "
            f"{os.cpu_count()} cores, and more processes than that wait for each other."
        )


def check_installed(package: str) -> None:
    """Raises ValueError if the package that spreads the work is missing; no name asks nothing."""
    if package and find_spec(package) is None:
        raise ValueError(
            f'this needs {package}, which is not installed: pip install "dsf-toolkit[scale]", or '
            "leave --workers and --slurm out."
        )
