"""Files that are there whole or not at all, also after a crash or on a full disk.

Every write is a temporary file beside the target, fsync, rename, fsync of the directory.
A failure is one ``StateError`` with file, reason and remedy, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from meshd.errors import StateError


def make_directory(path: Path, mode: int) -> list[Path]:
    """Make ``path`` and its parents; return those that were new, outermost first."""
    missing = [item for item in (path, *path.parents) if not item.exists()]
    made: list[Path] = []
    try:
        for item in reversed(missing):
            item.mkdir(mode=mode if item == path else 0o755)
            made.append(item)
            _inherit_owner(item)
    except OSError as error:
        for item in reversed(made):
            item.rmdir()
        raise failure(path, "make", error) from None
    return made


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write ``path`` whole or not at all, over what is there. ``StateError`` if not."""
    _write(path, content, mode, os.replace)


def create_file(path: Path, content: bytes, mode: int) -> None:
    """The same for a file that must not exist yet: nothing is ever overwritten."""

    def put(temporary: str, target: Path) -> None:
        os.link(temporary, target)  # Unlike a rename it fails when the name is taken.
        os.unlink(temporary)

    _write(path, content, mode, put)


def _write(path: Path, content: bytes, mode: int, put: Callable[[str, Path], None]) -> None:
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _inherit_owner(Path(temporary))
        put(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise failure(path, "write", error) from None


def _inherit_owner(path: Path) -> None:
    """What root makes belongs to whom its directory belongs: the daemon may not be root."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _sync_directory(path: Path) -> None:
    """A rename is only kept through a power loss once its directory is on disk (fsync(2))."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def failure(path: Path, what: str, error: OSError) -> StateError:
    """``error``, met when we wanted to ``what`` (a verb) ``path``, as a line with its remedy."""
    remedies = {
        errno.EACCES: "run as the user who owns it, or as root",
        errno.EPERM: "run as the user who owns it, or as root",
        errno.ENOSPC: "make room on the disk",
        errno.EDQUOT: "make room in the quota",
        errno.EROFS: "make the file system writable, or choose another place with --dir",
        errno.EEXIST: "move it away first",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = remedies.get(error.errno or 0, "mend that and try again")
    return StateError(f"cannot {what} {path}: {reason}; {remedy}")
