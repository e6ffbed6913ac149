"""``seal``: by which a run knows a unit that this user wrote on this machine.

A run folder may come from anybody, and not everything in it has evidence: what was measured and
what stayed UNKNOWN is only stated. So what is kept from an interrupted run bears a seal, made with
a key that never leaves the user's own folder for such things.
"""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

_BYTES = 32


def seal(content: bytes) -> str:
    """The seal of ``content`` in hexadecimal; empty where no key can be kept."""
    key = _key()
    return hmac.digest(key, content, "sha256").hex() if key else ""


def fits(stated: object, content: bytes) -> bool:
    """Whether ``stated`` is the seal of ``content``."""
    wanted = seal(content)
    return (
        bool(wanted)
        and isinstance(stated, str)
        and hmac.compare_digest(stated.encode("utf-8", "replace"), wanted.encode())
    )


def _key() -> bytes:
    """The key of this user, made when it is first needed; empty where that cannot be done."""
    try:
        path = _home() / "dsf" / "resume.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
        key = path.read_bytes()
    except (OSError, RuntimeError):  # no folder of one's own, or none that can be written
        return b""
    return key if len(key) == _BYTES else b""


def _home() -> Path:
    given = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(given) if given else Path.home() / ".local" / "state"
