"""Opens mutated checkpoint folders, each of which has to be refused in our words or load truly.

    python -m tests.hostile.folders --count 20000

Every folder is opened in a child process with limits of time and memory, many folders by one
child. A fault is: an error that is not ours, a process that ends, more than 20 s or 4 GB, weights
that are not those of the files or no floating point numbers, and anything that is written, started
or connected to outside the folder for temporary files. Results are kept in a file, so that a run
that was stopped goes on where it was.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SECONDS, GIGABYTES, BATCH = 20, 4, 100
LARGEST_DATA = 8 * 1024**3  # with what a process has already when it forks, used or not
CANARY = "nobody writes here"


@dataclass(frozen=True)
class Result:
    """What became of a folder: ``refused``, ``loaded`` or a fault, and the words of it."""

    number: int
    changes: tuple[str, ...]
    outcome: str
    words: str = ""
    seconds: float = 0.0
    gigabytes: float = 0.0
    tokenizer: bool = False

    @property
    def is_fault(self) -> bool:
        return self.outcome not in ("refused", "loaded")


def opened(number: int, seed: int, honest: dict[str, Any], box: Path) -> Result:
    """Write the folder of a number, load it, and look at what came of it."""
    from tests.hostile.mutations import mutated

    folder, changes = mutated(honest, seed, number)
    place = box / "model"
    shutil.rmtree(place, ignore_errors=True)
    folder.written(place)
    begin = time.perf_counter()
    written: list[str] = []
    with _watched(written, box / "tmp"):
        outcome, words, has_tokenizer = _loaded(place)
    seconds = time.perf_counter() - begin
    if outcome in ("refused", "loaded") and written:
        outcome, words = "reached outside", written[0]
    left = [*(box / "tmp").iterdir()]
    if outcome in ("refused", "loaded") and left:
        outcome, words = "left a file", left[0].name
    if (box / "outside" / "canary").read_text() != CANARY:
        outcome = "wrote outside"
    if seconds > SECONDS:
        outcome = "too slow"
    return Result(number, changes, outcome, words, seconds, _peak(), has_tokenizer)


def _loaded(place: Path) -> tuple[str, str, bool]:
    from dsf.loading import LoadError, load_model
    from tests.hostile.oracle import faults

    try:
        loaded = load_model(place, texts=["to be, or not to be"])
    except LoadError as error:
        clean = str(error).isprintable() and str(place) in str(error)
        return ("refused" if clean else "unclear"), str(error), False
    except BaseException:
        return "foreign error", traceback.format_exc(), False
    wrong = faults(loaded.model, place, loaded.notes)
    has_tokenizer = loaded.tokenizer is not None
    if wrong:
        return "other weights", wrong[0], has_tokenizer
    return "loaded", "", has_tokenizer


_WATCHER: list[Any] = []


@contextmanager
def _watched(written: list[str], allowed: Path) -> Iterator[None]:
    """Note what Python code writes, starts or connects to outside ``allowed``."""
    if not _WATCHER:
        _WATCHER.append(None)
        sys.addaudithook(lambda event, arguments: _WATCHER[0] and _WATCHER[0](event, arguments))
    changing = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link",
                "os.truncate", "os.chmod", "shutil.rmtree"}  # fmt: skip
    starting = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        # a link is made at its second argument, whatever the first one leads to
        path = arguments[int(event in ("os.symlink", "os.link"))] if arguments else ""
        if event == "open" and isinstance(arguments[2], int):
            if not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or isinstance(path, int):
                return
        elif event not in changing and event not in starting and event != "socket.connect":
            return
        if event == "socket.connect" and arguments[1] in (_ADDRESS[0], f"{_ADDRESS[0]}.gguf"):
            return
        known = event in changing or event == "open"
        if not known or not _place(path, arguments).startswith(f"{allowed}{os.sep}"):
            written.append(f"{event} {path!r}"[:300])

    _WATCHER[0] = watch
    try:
        yield
    finally:
        _WATCHER[0] = None


def _place(path: Any, arguments: tuple[Any, ...]) -> str:
    """Where a path leads that may be relative to an open folder, the last argument of the event."""
    name, within = os.fsdecode(path), arguments[-1]
    if not os.path.isabs(name) and len(arguments) > 1 and type(within) is int and within >= 0:
        name = os.path.join(os.readlink(f"/proc/self/fd/{within}"), name)
    return os.path.abspath(name)


def _peak() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


_ADDRESS = [""]


class ServedChild:
    """In the place of ``Child``: a server with the libraries answers in a fork of itself.

    The program, its request and its limits are the same. For a GGUF file, whose weights the library
    reads beside its tokenizer, a second server has torch.
    """

    def __init__(self, request: dict[str, Any]):
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_ADDRESS[0] + (".gguf" if request["gguf"] else ""))
        self._connection.sendall(json.dumps(request).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        from dsf.loading.tokenizer import ChildStopped

        self._connection.settimeout(60)
        with self._connection.makefile("rb") as stream:
            line = stream.readline()
        told: dict[str, Any] = json.loads(line)
        if "stopped" in told:
            raise ChildStopped(f"stopped (code {told['stopped']})")
        return told

    def stop(self) -> None:
        self._connection.close()


SERVER = """
import json, os, runpy, signal, socket, sys
sys.path[:] = json.loads(sys.argv[2])
answer = runpy.run_path(sys.argv[3])["answer"]
if sys.argv[1].endswith(".gguf"):
    import gguf, torch
    import transformers.modeling_gguf_pytorch_utils
else:
    sys.modules["torch"] = None
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(8)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    connection, _ = server.accept()
    if os.fork():
        connection.close()
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stream = connection.makefile("rwb")
    request = json.loads(stream.readline())
    read, write = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.write(write, json.dumps(answer(request)).encode()[:60000])
        os._exit(0)
    os.close(write)
    told = os.fdopen(read, "rb").read()
    _, status = os.waitpid(worker, 0)
    code = os.waitstatus_to_exitcode(status)
    stream.write((told if code == 0 else json.dumps({"stopped": code}).encode()) + b"\\n")
    stream.flush()
    os._exit(0)
"""


@contextmanager
def served(place: Path) -> Iterator[None]:
    """A server for tokenizers, in the place of a process for each, during the ``with`` block."""
    import subprocess

    from dsf.loading import tokenizer

    _ADDRESS[0] = str(place / "server")
    path = json.dumps([os.path.abspath(each) for each in sys.path])
    addresses = _ADDRESS[0], f"{_ADDRESS[0]}.gguf"
    processes = [
        subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", SERVER, address, path, tokenizer._PROGRAM],
            env={**os.environ, **tokenizer.CHILD_ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for address in addresses
    ]
    while not all(Path(address).exists() for address in addresses):
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("a server of tokenizers did not start")
        time.sleep(0.05)
    real, tokenizer.Child = tokenizer.Child, ServedChild  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        tokenizer.Child = real  # type: ignore[misc]
        for process in processes:
            process.kill()
            process.wait()


def _work(numbers: list[int], seed: int, honest: dict[str, Any], box: str, channel: Any) -> None:
    """Open folders one after the other, in a process of its own, and send each result."""
    import resource

    place = Path(box)
    resource.setrlimit(resource.RLIMIT_DATA, (LARGEST_DATA,) * 2)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = str(place / "tmp")
    os.chdir(place / "outside")
    for number in numbers:
        channel.send(asdict(opened(number, seed, honest, place)))
    channel.close()


def run(
    numbers: Iterable[int], seed: int, keep: Callable[[Result], None], *, batch: int = BATCH
) -> None:
    """Open the folders of ``numbers``, many by one child; what ends a child is a fault."""
    import torch

    import dsf.loading.loader  # noqa: F401  # what every child needs, imported once
    from tests.hostile.honest_folders import honest_folders
    from tests.hostile.mutations import mutated

    torch.set_num_threads(1)
    honest = honest_folders()
    left = list(numbers)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary, served(Path(temporary)):
        box = Path(temporary) / "box"
        for name in ("tmp", "outside"):
            (box / name).mkdir(parents=True)
        (box / "outside" / "canary").write_text(CANARY)
        while left:
            receive, send = context.Pipe(duplex=False)
            child = context.Process(target=_work, args=(left[:batch], seed, honest, str(box), send))
            child.start()
            send.close()
            done = 0
            with suppress(EOFError):
                while done < len(left[:batch]) and receive.poll(SECONDS + 10):
                    found = Result(**receive.recv())
                    if found.gigabytes > GIGABYTES:
                        found = Result(**{**asdict(found), "outcome": "too large"})
                    keep(found)
                    done += 1
            if done < len(left[:batch]):
                number = left[done]
                hung = child.is_alive() and not receive.poll(0)
                child.kill()
                child.join()
                for each in (box / "tmp").iterdir():  # it could not tidy up itself
                    shutil.rmtree(each, ignore_errors=True)
                outcome = "hung" if hung else "ended the process"
                _, changes = mutated(honest, seed, number)
                keep(Result(number, changes, outcome, f"code {child.exitcode}"))
                done += 1
            child.join()
            left = left[done:]


def summary(results: list[Result]) -> str:
    """Counts by outcome, and by what was changed first."""
    counts = Counter(result.outcome for result in results)
    with_tokenizer = sum(result.tokenizer for result in results)
    rows = [
        f"{len(results)} folders: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
    ]
    rows.append(f"{with_tokenizer} of those that loaded have a tokenizer")
    slowest = max(result.seconds for result in results)
    mean = sum(result.seconds for result in results) / len(results)
    largest = max(result.gigabytes for result in results)
    rows.append(f"{mean:.3f} s on average, {slowest:.1f} s at most, {largest:.1f} GB at most")
    for change in sorted({result.changes[0] for result in results}):
        of = Counter(result.outcome for result in results if result.changes[0] == change)
        rows.append(f"  {change}: " + ", ".join(f"{n} {kind}" for kind, n in of.most_common()))
    return "\n".join(rows)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--results", type=Path, default=Path("hostile-folders.jsonl"))
    chosen = options.parse_args()
    results: dict[int, Result] = {}
    if chosen.results.exists():
        for line in chosen.results.read_text().splitlines():
            with suppress(ValueError, TypeError):
                read = json.loads(line)
                results[read["number"]] = Result(**{**read, "changes": tuple(read["changes"])})
    with chosen.results.open("a", encoding="utf-8") as stream:

        def keep(result: Result) -> None:
            results[result.number] = result
            stream.write(json.dumps(asdict(result)) + "\n")
            stream.flush()
            if result.is_fault:
                print(
                    f"{result.number} {result.changes}: {result.outcome}: {result.words}",
                    flush=True,
                )

        run((n for n in range(chosen.count) if n not in results), chosen.seed, keep)
    print(summary([results[number] for number in sorted(results) if number < chosen.count]))
    return int(any(result.is_fault for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
