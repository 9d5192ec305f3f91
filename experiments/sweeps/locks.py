"""Locks on a shared file system.

The system's, which ends with the process, and a text for those who do not see that. Not those of filelock:
its soft lock takes a process that was killed for alive until its parent has asked for it, so that the others
of a sweep wait for ever, and its lock of the system says nothing to other machines and names no holder.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Held(Exception):
    """A lock that a process holds which is alive, or may be.

    Attributes:
        holder: who it is, in words.
    """

    def __init__(self, who: Mapping[str, Any]):
        self.holder = f"process {who['pid']} on {who['host']}" if "pid" in who else "another process"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock.

    Raises:
        Held: if another process does.
        OSError: if the file cannot be written.
    """
    with open(path, "a+") as file:
        _take(file)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "start": _start_of(os.getpid())}
        _say(file, json.dumps(me))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                _say(file, "")


def check(path: Path) -> None:
    """Does nothing if nobody holds a lock.

    Raises:
        Held: if a process does.
    """
    with contextlib.suppress(FileNotFoundError), open(path, "r+") as file:
        _take(file)


def _take(file: Any) -> None:
    """Makes the lock of an open file ours until that is closed."""
    seen = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Held(_read(file)) from None
    except OSError:  # a file system without locks
        seen = False
    holder = _read(file)
    # The system's lock says all about this machine, but perhaps nothing about others.
    if holder and (holder.get("host") != socket.gethostname() or not (seen or _dead(holder))):
        raise Held(holder)


def _say(file: Any, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _read(file: Any) -> dict[str, Any]:
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _dead(holder: Mapping[str, Any]) -> bool:
    """Whether a process of this machine is gone, or its number is now another one's."""
    pid = int(holder.get("pid", 0))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return pid == os.getpid() or _start_of(pid) != holder.get("start")


def _start_of(pid: int) -> str | None:
    """When a process started, on the system's own clock; ``None`` where that cannot be asked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
