"""Child processes that open untrusted files, seen from the parent."""

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

from dsf.loading.child import start
from dsf.loading.errors import shown

_GRACE = 60  # in wall time, since limits count processor time
_START = str(start.__file__)
# One thread each, and no calls to other machines, whatever the parent may do.
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "critical",
}


class ChildStopped(Exception):
    """A child process ended without an answer; the message says how."""


class Child:
    """A process that answers one request; it works while this one does something else.

    Args:
        program: a module of ``dsf.loading`` with a function ``answer``.
        request: what it is given; ``seconds`` is its limit of processor time.
        libraries: whether it may import installed packages.
    """

    def __init__(self, program: str, request: dict[str, Any], *, libraries: bool = False):
        options = ["-I", "-B"] if libraries else ["-I", "-B", "-S"]
        self._seconds = request["seconds"] + _GRACE
        self._process = subprocess.Popen(  # noqa: S603 - our own file, and arguments without a shell
            [sys.executable, *options, _START, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_SETTINGS},
        )
        with contextlib.suppress(OSError), self._process.stdin as stream:  # type: ignore[union-attr]
            stream.write(json.dumps(request).encode())  # if it ended already, answer() tells why
        self._process.stdin = None

    def answer(self) -> dict[str, Any]:
        """What it says.

        Raises:
            ChildStopped: it was stopped by a limit, crashed or took too long.
        """
        try:
            said, complaint = self._process.communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise ChildStopped("took too long") from None
        code = self._process.returncode
        if code != 0:
            last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            why = last if code > 0 and last else f"code {code}"  # negative: ended by a signal
            raise ChildStopped(f"stopped ({shown(why)})")
        answer: dict[str, Any] = json.loads(said)
        return answer

    def stop(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
