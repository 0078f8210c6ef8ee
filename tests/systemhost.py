"""A host as it is installed: files where the system has them, and a user for the daemon.

One router of a lab gets a mount namespace of its own, in which /etc and /var/lib are overlays and
/run is empty: whatever is written there is nobody else's, and goes with it.  What runs there is
either a command of ours, with the user and the capabilities that the unit gives, or the unit
itself under a systemd of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from netlab import Namespace, until
from netlab.mesh import MESHD

ROOT = Path(__file__).parents[1]
CONFIG = Path("/etc/meshd/meshd.toml")
STATE = Path("/var/lib/meshd")
RUNTIME = Path("/run/meshd")

_LAYERS = """\
set -eu
mount --make-rprivate /
layers=$1/layers
mkdir "$layers"
mount -t tmpfs -o mode=755 tmpfs "$layers"
for place in /etc /var/lib /usr/local $4; do
    upper=$layers$place/upper work=$layers$place/work
    mkdir -p "$upper" "$work"
    mount -t overlay -o "lowerdir=$place,upperdir=$upper,workdir=$work" overlay "$place"
done
mount -t tmpfs -o mode=755 tmpfs /run
for place in $5; do
    chmod a+rx "$place"
done
mkdir -p /usr/local/bin
ln -sf "$2" /usr/local/bin/meshd
systemd-sysusers "$3/config/sysusers.d/meshd.conf" 2>/dev/null
"""
"""Arguments: a directory for what is written, the command meshd, the repository; then two lists,
of further places that are not to be touched, and of directories that others may not enter."""

_IDLE = "echo ready; exec sleep infinity"

_BOOT = """\
mount -t proc proc /proc
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 tmpfs /dev
while read -r node major minor; do
    mknod -m 666 "/dev/$node" c "$major" "$minor"
done <<'END'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
ln -s pts/ptmx /dev/ptmx
mkdir /dev/pts /dev/shm /run/units
: >"$1/console"
: >/dev/console
mount --bind "$1/console" /dev/console
mkdir /run/units/meshd.service.d
cp "$3/config/meshd.service" /run/units/
printf '[Service]\\n%s\\n' "$6" >/run/units/meshd.service.d/interpreter.conf
for target in sysinit basic network shutdown umount final multi-user; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >"/run/units/$target.target"
done
echo ready
exec env -i container=meshd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \\
    systemd --system --unit=basic.target --log-target=console
"""
"""systemd is told that it is in a container, which spares the machine its set-up; it finds our unit
and stand-ins for the targets that units order themselves by, and none of the machine's own."""

PROGRAM = (ROOT, Path(sys.base_prefix), Path(sys.executable).resolve())
"""What the daemon is made of: the clone and its interpreter."""

CLOSED = sorted({
    each for path in PROGRAM for each in path.parents if each.stat().st_mode & 0o005 != 0o005
})  # fmt: skip
"""Directories on the way to it that only their owner may enter, as those of people often are. An
installed meshd would be elsewhere; here they are opened, in layers of our own."""

HIDDEN = {"ProtectHome=read-only": ("/home", "/root"), "PrivateTmp=no": ("/tmp", "/var/tmp")}
VISIBLE = "\n".join(
    setting
    for setting, places in HIDDEN.items()
    if any(path.is_relative_to(place) for path in PROGRAM for place in places)
)
"""... and what the unit would hide of it, which an installed one would not be in."""

USER = ("--reuid=meshd", "--regid=meshd", "--init-groups")
ONLY_NET_ADMIN = (
    "--inh-caps=-all,+net_admin",
    "--ambient-caps=-all,+net_admin",
    "--bounding-set=-all,+net_admin",
    "--no-new-privs",
)
NO_CAPABILITY = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")
"""setpriv(1): what User=, AmbientCapabilities= and CapabilityBoundingSet= of the unit come to."""


@attrs.define(eq=False)
class SystemHost:
    """Context manager: see above. ``directory`` is empty and takes all that is written.

    systemd: a systemd of its own runs in it, as process 1.
    """

    router: Namespace
    directory: Path
    systemd: bool = False
    _outer: subprocess.Popen[str] = attrs.field(init=False)
    _inner: int = attrs.field(default=0, init=False)
    """The process that holds the namespaces open."""
    _daemons: list[subprocess.Popen[Any]] = attrs.field(factory=list, init=False)

    def __enter__(self) -> SystemHost:
        script = _LAYERS + (_BOOT if self.systemd else _IDLE)
        spaces = ["--mount", "--kill-child", "--fork"]
        if self.systemd:
            spaces += ["--pid", "--ipc", "--uts", "--cgroup"]
        layered = " ".join(sorted({"/" + each.parts[1] for each in CLOSED}))
        closed = " ".join(map(str, CLOSED))
        arguments: list[str | Path] = [
            self.directory,
            MESHD,
            ROOT,
            layered,
            closed,
            VISIBLE,
        ]
        self._outer = self.router.popen(
            ["unshare", *spaces, "sh", "-c", script, "sh", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self._outer.stdout is not None
        try:
            if self._outer.stdout.readline() != "ready\n":
                raise RuntimeError(self._outer.communicate()[1])
            children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
            self._inner = int(children.read_text(encoding="ascii"))
            if self.systemd:
                until(self._booted, 20, "systemd answers")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        self._outer.kill()
        self._outer.communicate()

    def _booted(self) -> bool:
        done = self.run("systemctl", "is-active", "basic.target", check=False)
        return done.stdout == "active\n"

    def argv(self, *words: str | Path) -> list[str | Path]:
        """The command line that runs ``words`` here, as root."""
        kinds = ["--mount", "--pid"] if self.systemd else ["--mount"]
        return ["nsenter", f"--target={self._inner}", *kinds, "--", *words]

    def run(
        self, *words: str | Path, stdin: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end, as root."""
        environment = {key: value for key, value in os.environ.items() if key != "MESHD_DIR"}
        return self.router.run(self.argv(*words), stdin=stdin, check=check, env=environment)

    def meshd(
        self, *words: str, stdin: str = "", privileges: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of meshd here, as root unless ``privileges`` (of setpriv) say other."""
        dropped = ["setpriv", *privileges, "--"] if privileges else []
        return self.run(*dropped, "/usr/local/bin/meshd", *words, stdin=stdin, check=check)

    def json(self, *words: str) -> Any:
        """What a command of meshd prints with ``--json``."""
        return json.loads(self.meshd(*words, "--json").stdout)

    def start(self) -> subprocess.Popen[Any]:
        """The daemon, as the unit would start it; its log is ``directory``/../NAME.log."""
        self.run("install", "-d", "-o", "meshd", "-g", "meshd", RUNTIME)
        command = ["setpriv", *USER, *ONLY_NET_ADMIN, "--", "/usr/local/bin/meshd", "run"]
        with self.log.open("ab") as log:
            daemon = self.router.popen(
                self.argv(*command, "--log-format", "json"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._daemons.append(daemon)
        return daemon

    @property
    def log(self) -> Path:
        """What its daemons wrote."""
        return self.directory.with_suffix(".log")

    def systemctl(self, *words: str, check: bool = True) -> str:
        """What a command of systemctl prints."""
        return self.run("systemctl", *words, check=check).stdout.strip()

    def main_process(self) -> int:
        """The unit's main process, by its number on this machine; 0 without one."""
        within = int(self.systemctl("show", "--property=MainPID", "--value", "meshd.service"))
        for process in Path("/proc").glob("[0-9]*") if within else ():
            # Any of them may end while it is read; of some nothing is shown.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if self._number_within(process) == str(within):
                    return int(process.name)
        return 0

    def _number_within(self, process: Path) -> str | None:
        """The process' number on this host; None where it is not of this host's."""
        if (process / "ns/pid").readlink() != Path(f"/proc/{self._inner}/ns/pid").readlink():
            return None
        text = (process / "status").read_text(encoding="ascii", errors="replace")
        (numbers,) = [line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")]
        return numbers[1] if len(numbers) == 2 else None

    def kill(self, pid: int) -> None:
        """SIGKILL to a process of this host."""
        os.kill(pid, signal.SIGKILL)
