"""The systemd unit and the user it needs, judged by systemd's own programs; nothing is started.

tests/kernel/test_service.py runs both.
"""

from __future__ import annotations

import json
import pwd
import subprocess
from pathlib import Path

from meshd.founding import SERVICE_USER
from meshd.paths import Paths

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "config/meshd.service"
SYSUSERS = ROOT / "config/sysusers.d/meshd.conf"

EXPOSURE = 2.0
"""Of 10 (systemd-analyze(1)): 1.5 with systemd 252."""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="ascii").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_exposes_little_of_the_host() -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    (line,) = [line for line in done.stdout.splitlines() if "Overall exposure level" in line]
    assert float(line.rpartition(": ")[2].split()[0]) < EXPOSURE
    listed = run("systemd-analyze", "security", "--offline=true", "--json=short", UNIT)
    given = {
        row["json_field"].removeprefix("CapabilityBoundingSet_")
        for row in json.loads(listed.stdout)
        if row["json_field"].startswith("CapabilityBoundingSet_") and not row["set"]
    }
    assert given == {"CAP_NET_ADMIN"}


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    # A root of its own, where everything that the unit names is there.
    for name, content in (("usr/local/bin/meshd", "#!/bin/sh\n"), ("opt/meshd/README.md", "")):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
        path.chmod(0o755)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for target in ("sysinit", "basic", "shutdown"):
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (units / "meshd.service").write_bytes(UNIT.read_bytes())
    done = run("systemd-analyze", "verify", f"--root={tmp_path}", "meshd.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_has_the_places_and_the_user_of_the_system_layout() -> None:
    unit, paths = settings(), Paths.system()
    assert Path("/etc", *unit["ConfigurationDirectory"]) == paths.config.parent
    assert Path("/var/lib", *unit["StateDirectory"]) == paths.state
    assert Path("/run", *unit["RuntimeDirectory"]) == paths.socket.parent
    assert unit["User"] == unit["Group"] == [SERVICE_USER]
    assert unit["RestartPreventExitStatus"] == ["2"]  # usage or config (README)


def test_the_user_is_made_without_a_password_a_shell_or_a_number_of_ours(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", SYSUSERS)
    assert done.returncode == 0, done.stderr
    (entry,) = [
        pwd.struct_passwd(line.split(":"))
        for line in (tmp_path / "etc/passwd").read_text().splitlines()
        if line.startswith(f"{SERVICE_USER}:")
    ]
    assert entry.pw_dir == str(Paths.system().state)
    assert entry.pw_shell.endswith("nologin")
    assert 0 < int(entry.pw_uid) < 1000  # a system user's; which one is the host's affair
    shadow = tmp_path / "etc/shadow"
    shadow.chmod(0o600)  # who is not root may not read what he has just made
    assert shadow.read_text().split(f"{SERVICE_USER}:")[1].startswith("!")
