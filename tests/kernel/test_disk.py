"""A disk that is full or read-only under a running daemon: nothing is said that could be forgotten.

The second member is a host of its own (systemhost.py) whose state lies on a small file system.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import attrs
import pytest
from systemhost import CONFIG, STATE, SystemHost

from meshd.sequence import RESERVE
from netlab import Lab, Mesh, until
from netlab.kernelview import Network, expected, holdings, settle
from netlab.lab import UPLINK

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

SOON_S = 10

SIZE_K = 64
"""Of the file system: a few files of a block each, and as little to fill."""

HASTY = f"""#!{sys.executable}
import sys
import meshd.sequence
meshd.sequence.AHEAD = 0
from meshd.cli import main
sys.exit(main())
"""
"""meshd that reserves a second of sequences and not an hour, which no test can wait for."""

FULL = f"dd if=/dev/zero of={STATE}/filler bs=4k 2>/dev/null || true"
EMPTY = f"rm {STATE}/filler"
READ_ONLY = f"mount --bind {STATE} {STATE} && mount -o remount,bind,ro {STATE}"
WRITABLE = f"umount {STATE}"
"""A mount over the same place, since none with a file open for writing becomes read-only but by a
disk's own errors."""


@attrs.frozen
class Small:
    """A mesh of one, and a host with a small disk that is its second member."""

    mesh: Mesh
    host: SystemHost

    @property
    def lab(self) -> Lab:
        return self.mesh.lab

    def shell(self, command: str) -> None:
        self.host.run("sh", "-c", command)

    def sequence_heard(self) -> int:
        """The host's, as the other member holds it."""
        (row,) = self.mesh[1].json("peers")
        return int(row["sequence"])

    def let_the_reserve_run_out(self) -> None:
        """A sequence is a millisecond, and so many are reserved by one write."""
        last = self.sequence_heard()
        over = (last + 2 * RESERVE) / 1000
        until(lambda: time.time() > over, SOON_S, "what is reserved lies in the past")

    def reload(self, *prefixes: Network) -> str:
        """Announce ``prefixes`` and no others; what was said against it."""
        listed = ", ".join(f'"{prefix}"' for prefix in prefixes)
        self.shell(f"sed -i 's|^announce.*|announce = [{listed}]|' {CONFIG}")
        return self.host.meshd("reload", check=False).stderr


@pytest.fixture(scope="module")
def small(
    shared_lab: NewLab, shared_mesh: NewMesh, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Small]:
    if Path("/proc/self/uid_map").read_text().split()[2:] == ["1"]:
        pytest.skip("this user namespace knows one user only")
    mesh = shared_mesh(shared_lab(2))
    mesh.found(1)
    directory = tmp_path_factory.mktemp("hosts") / "r2"
    directory.mkdir()
    zone = mesh.lab.zone(2)
    with SystemHost(zone.router, directory) as host:
        host.run("mkdir", STATE)
        host.run("mount", "-t", "tmpfs", "-o", f"size={SIZE_K}k,mode=700", "tmpfs", STATE)
        host.run("chown", "meshd:meshd", STATE)
        host.meshd("join", "-", "--announce", str(zone.prefix4), stdin=mesh.invite(2))
        host.run("sh", "-c", "cd /usr/local/bin && rm meshd && cat >meshd && chmod 755 meshd",
                 stdin=HASTY)  # fmt: skip
        host.start()
        host.meshd("wait", "--peers", "1", "--converged", "--timeout", "30")
        yield Small(mesh, host)


@pytest.mark.parametrize(
    ("spoil", "mend", "words"),
    [(FULL, EMPTY, "No space left on device"), (READ_ONLY, WRITABLE, "Read-only file system")],
    ids=["full", "read-only"],
)
def test_without_a_disk_to_keep_it_on_no_sequence_is_used_and_the_log_says_so(
    small: Small, spoil: str, mend: str, words: str
) -> None:
    first, second = small.lab.zones
    more, new = IPv4Network("10.99.0.0/24"), IPv4Address("192.0.2.77")
    there, back = (
        [f"addr del {old}/24 dev {UPLINK}", f"addr add {to}/24 dev {UPLINK}"]
        for old, to in ((second.uplink4.ip, new), (new, second.uplink4.ip))
    )
    known = expected(first, (first, second), remote=[(second.prefix4, second)])
    settle(first.router, known, SOON_S)
    small.let_the_reserve_run_out()
    before = small.sequence_heard()

    def errors() -> list[str]:
        lines = small.host.log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if '"error"' in line and words in line]

    told = len(errors())
    with ExitStack() as cleanup:
        cleanup.callback(small.reload, second.prefix4)
        small.shell(spoil)
        with ExitStack() as repair:
            repair.callback(small.shell, mend)
            # Asked for it: refused, in one line that names the file.
            (line,) = small.reload(second.prefix4, more).splitlines()
            assert words in line
            assert str(STATE) in line
            # By itself, since its address changes: told in the log, once.
            second.router.configure(there)
            cleanup.callback(second.router.configure, back)
            until(lambda: len(errors()) > told, SOON_S, "it is told")
            small.mesh[1].wait("--peers", "1", timeout=SOON_S)  # its other address is as it was
            assert small.sequence_heard() == before
            assert holdings(first.router) == known
        until(lambda: small.sequence_heard() > before, SOON_S, "it is announced by itself")
        assert len(errors()) == told + 1
        assert small.reload(second.prefix4, more) == ""
        small.mesh[1].wait("--prefix", str(more), timeout=SOON_S)
    settle(first.router, known, SOON_S)
