"""The state directory: the files that must survive, each written whole or not at all.

After a crash or on a full disk the old content stands (``meshd.files``).  Keys are made
once and never overwritten.  What is damaged is said in one line; what can be had again from
the mesh (the snapshot) is set aside instead.  Files hold bytes here: what they mean is
decided elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

from meshd import records
from meshd.errors import StateError, UsageError
from meshd.files import failure, replace_file
from meshd.values import Announced, announced, distinct_announced
from protocol.identity import Identity

NODE_KEY: Final = "node.key"
AUTHORITY_KEY: Final = "authority.key"
NEXT_AUTHORITY_KEY: Final = "authority-next.key"
KEYS: Final = (NODE_KEY, AUTHORITY_KEY, NEXT_AUTHORITY_KEY)
OWN_GRANT: Final = "grant"
LEDGER: Final = "grants"
"""What the authority has given; beside its key, and needed like it."""

_AUTHORITYS_KEY: Final = re.compile(r"authority(-next)?(-[0-9]{1,2})?\.key")
"""Also those that were moved aside, with the generation that they served."""

_AUTHORITYS: Final = re.compile(rf"{_AUTHORITYS_KEY.pattern}|{LEDGER}|succession-[0-9]{{1,2}}")
_KEY_LINE: Final = re.compile(rb"[0-9a-f]{64}\n")
"""A key file is its secret in hex: one can print it and keep it on paper."""
KEY_FILE_SIZE: Final = 65


@attrs.frozen
class RuntimeChanges:
    """What ``announce`` and ``withdraw`` changed beside the config's list."""

    added: tuple[Announced, ...] = ()
    withdrawn: tuple[Announced, ...] = ()

    def announce(self, wanted: Iterable[Announced]) -> RuntimeChanges:
        """With ``wanted`` announced, whatever the config says."""
        new = dict.fromkeys(wanted)
        return RuntimeChanges(
            (*(old for old in self.added if old not in new), *new),
            tuple(old for old in self.withdrawn if old not in new),
        )

    def withdraw(
        self, unwanted: Iterable[Announced], configured: Iterable[Announced]
    ) -> RuntimeChanges:
        """With ``unwanted`` not announced; what is ``configured`` must be remembered for that."""
        gone, listed = dict.fromkeys(unwanted), frozenset(configured)
        return RuntimeChanges(
            tuple(old for old in self.added if old not in gone),
            (
                *(old for old in self.withdrawn if old not in gone),
                *(item for item in gone if item in listed),
            ),
        )

    def settle(self, configured: Iterable[Announced]) -> RuntimeChanges:
        """Without what ``configured`` says anyway, so that a later edit of the config
        is not overruled by a withdrawal that nobody remembers."""
        listed = set(configured)
        return RuntimeChanges(
            tuple(item for item in self.added if item not in listed),
            tuple(item for item in self.withdrawn if item in listed),
        )

    def apply(self, configured: Iterable[Announced]) -> tuple[Announced, ...]:
        """What is to be announced; ``UsageError`` when two of it overlap."""
        wanted, withdrawn = (*configured, *self.added), frozenset(self.withdrawn)
        return distinct_announced(item for item in wanted if item not in withdrawn)


@attrs.frozen
class StateDirectory:
    """The files of one node. Several processes may read; the daemon holds the lock."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> StateDirectory:
        """The directory at ``path``, which must exist and be writable by its owner only.

        Every key file in it is checked too: ``UsageError`` names the file and the remedy.
        """
        try:
            found = path.stat()
        except FileNotFoundError:
            raise UsageError(
                f"{path} does not exist; make a node with `meshd init` or `meshd join` first"
            ) from None
        except OSError as error:
            raise failure(path, "read", error) from None
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{path} is not a directory; move it away")
        if found.st_mode & 0o022:
            raise UsageError(
                f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o});"
                f" run: chmod 700 {path}"
            )
        state = cls(path)
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            raise failure(path, "read", error) from None
        for name in names:
            if name == NODE_KEY or is_authoritys_key(name):
                state.read_key(name)
        return state

    # -- keys ---------------------------------------------------------------------------

    def read_key(self, name: str) -> Identity:
        """The key in file ``name``; see the function of this name."""
        return read_key(self.path / name)

    def has(self, name: str) -> bool:
        """Whether something of that name is here, be it usable or not."""
        return os.path.lexists(self.path / name)

    # -- files --------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        """Replace file ``name`` (0600) at one stroke; ``StateError`` leaves the old one."""
        replace_file(self.path / name, content, 0o600)

    def read(self, name: str) -> bytes | None:
        """The content of file ``name``, None if there is none."""
        path = self.path / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failure(path, "read", error) from None

    def check_writable(self) -> None:
        """``StateError`` now rather than when the first sequence must be kept."""
        self.write("writable", b"")
        self.remove("writable")

    def remove(self, name: str) -> None:
        """Remove file ``name`` if it is there."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise failure(self.path / name, "remove", error) from None

    # -- what the mesh told us -----------------------------------------------------------

    def read_snapshot(self) -> tuple[bytes, ...]:
        """The objects of the last snapshot, none if there is none. ``records.Damaged``."""
        content = self.read("snapshot")
        return () if content is None else records.load(content)

    def take_snapshot(self, warn: Callable[[str], None]) -> tuple[bytes, ...]:
        """The same, but a damaged snapshot is set aside: the mesh will tell it all again."""
        try:
            return self.read_snapshot()
        except records.Damaged as damage:
            damaged = self.path / "snapshot.damaged"
            try:
                os.replace(self.path / "snapshot", damaged)
            except OSError as error:
                raise failure(damaged, "write", error) from None
            warn(f"{self.path / 'snapshot'} is damaged ({damage}); set aside as {damaged}")
            return ()

    def write_snapshot(self, objects: Iterable[bytes]) -> None:
        """Keep the whole store, as the daemon writes it: envelopes, and the shards they name."""
        self.write("snapshot", records.dump(objects))

    def read_grant(self) -> tuple[bytes, ...]:
        """The envelope of this node's own grant, kept apart from what can be had again, and
        that of the Successor which made its authority, if it was not the first."""
        path = self.path / OWN_GRANT
        content = self.read(OWN_GRANT)
        if content is None:
            raise UsageError(f"{path} does not exist; ask for a new invitation, then `meshd join`")
        with contextlib.suppress(records.Damaged):
            kept = records.load(content)
            if len(kept) in (1, 2):
                return kept
        raise UsageError(f"{path} is damaged; restore it from a copy, or join anew")

    def write_grant(self, grant: bytes, successor: bytes | None) -> None:
        """Keep another one; see ``read_grant``."""
        self.write(OWN_GRANT, records.dump([grant, *([successor] if successor else [])]))

    # -- what was announced at run time ---------------------------------------------------

    def read_changes(self) -> RuntimeChanges:
        """What ``announce`` and ``withdraw`` left in the file ``announced``."""
        path = self.path / "announced"
        try:
            lines = (self.read("announced") or b"").decode("ascii").split()
            if any(line[0] not in "+-" for line in lines):
                raise UsageError("a line starts with neither + nor -")
            return RuntimeChanges(
                tuple(announced(line[1:]) for line in lines if line[0] == "+"),
                tuple(announced(line[1:]) for line in lines if line[0] == "-"),
            )
        except StateError:
            raise
        except (UsageError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path} is damaged ({error}); mend the line, or remove the file"
            ) from None

    def write_changes(self, changes: RuntimeChanges) -> None:
        """Keep ``changes`` beside the config's list, one a line."""
        lines = [f"+{item}\n" for item in changes.added]
        lines += [f"-{item}\n" for item in changes.withdrawn]
        self.write("announced", "".join(lines).encode())

    # -- one at a time ----------------------------------------------------------------------

    def lock(self, home: Path) -> Lock:
        """Become the only daemon here until the lock is released or the process ends.

        ``home`` is how people know this directory. ``UsageError`` names the other's pid.
        """
        path = self.path / "lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise failure(path, "write", error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise failure(path, "lock", error) from None
            raise UsageError(
                f"another meshd (pid {holder if holder.isdecimal() else 'unknown'}) runs on {home}"
            ) from None
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(handle)
            raise failure(path, "write", error) from None
        return Lock(handle)


@attrs.define(eq=False)
class Lock:
    """The state directory is ours while this is held; the kernel frees it with the process."""

    _handle: int

    def release(self) -> None:
        """Let another daemon start here."""
        os.close(self._handle)


def key_file(identity: Identity) -> bytes:
    """The content of a key file."""
    return identity.secret.hex().encode() + b"\n"


def is_authoritys_key(name: str) -> bool:
    """Whether a file of that name holds a key of an authority, be it one of before."""
    return _AUTHORITYS_KEY.fullmatch(name) is not None


def is_authoritys(name: str) -> bool:
    """Whether a file of that name is the authority's, not the node's: it outlives the node."""
    return _AUTHORITYS.fullmatch(name) is not None


def succession_file(generation: int) -> str:
    """The name of the bundle that tells a mesh of its authority of that generation."""
    return f"succession-{generation}"


def read_key(path: Path) -> Identity:
    """The key in a file: regular, of 65 bytes, 0600, ours. Or ``UsageError``."""
    try:
        # Not blocking, or a FIFO would keep us waiting for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; restore it from where you keep it") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"{path} is a symbolic link; put the key file itself there") from None
        raise failure(path, "read", error) from None
    try:
        _check_key_file(path, os.fstat(handle))
        content = os.read(handle, KEY_FILE_SIZE + 1)
    finally:
        os.close(handle)
    if not _KEY_LINE.fullmatch(content):
        raise UsageError(
            f"{path} holds no key ({KEY_FILE_SIZE} bytes: 64 hex digits and a newline);"
            " restore it from a copy"
        )
    return Identity.from_secret(bytes.fromhex(content.decode()))


def _check_key_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file; put the key file itself there")
    # Root works on behalf of whoever owns the directory (`sudo meshd invite`).
    ours = {0, os.geteuid()} | ({path.parent.stat().st_uid} if os.geteuid() == 0 else set())
    if found.st_uid not in ours:
        raise UsageError(f"{path} belongs to user {found.st_uid}; run: chown {os.geteuid()} {path}")
    mode = stat.S_IMODE(found.st_mode)
    if mode != 0o600:
        raise UsageError(f"{path} has mode {mode:04o}, not 0600; run: chmod 600 {path}")


@contextlib.contextmanager
def key_lock(path: Path) -> Iterator[None]:
    """Wait to be the only one that signs with the key in file ``path``, which carries the lock."""
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
