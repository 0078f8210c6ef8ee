"""``meshd purge``: all of ours goes, nobody's else does, and never the authority's keys."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest

from meshd import cli, purge, values
from meshd.errors import UsageError
from meshd.kernel.memory import Memory
from meshd.kernel.plan import diff
from meshd.kernel.state import Interface, KernelState, NextHops
from meshd.paths import Paths
from meshd.state import StateDirectory

FAR, LOCAL = map(values.prefix, ("10.2.0.0/24", "10.1.0.0/24"))
OURS = KernelState(
    routes={FAR: NextHops.via(ipaddress.ip_address("192.0.2.2"), "net0")},
    guards=frozenset({FAR}),
    local=frozenset({LOCAL}),
    mesh=frozenset({FAR, LOCAL}),
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.under(tmp_path / "a")
    assert cli.main(["--dir", str(tmp_path / "a"), "init", "--name", "a"]) == 0
    return paths


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A kernel in which a daemon that is gone has left something."""
    kernel = Memory([Interface("net0", 2, True, (ipaddress.ip_interface("192.0.2.1/24"),))])
    assert not kernel.apply(diff(OURS, kernel.read()))
    monkeypatch.setattr(purge, "backend", lambda *_, **__: kernel)
    return kernel


def run(paths: Paths, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["--dir", str(paths.home), "purge", *options])
    return code, *capsys.readouterr()


def left(paths: Paths) -> set[str]:
    return {str(path.relative_to(paths.home)) for path in paths.home.rglob("*") if path.is_file()}


def test_purge_removes_what_is_ours_and_says_what(
    paths: Paths, kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(paths)
    code, out, err = run(paths, capsys)
    assert (code, err) == (0, "")
    assert "10.2.0.0/24" in out
    assert kernel.read().state == KernelState()
    assert run(paths, capsys) == (0, "nothing of ours was in the kernel\n", "")
    assert left(paths) == before | {"state/lock"}


def test_purge_refuses_while_a_daemon_runs(
    paths: Paths, kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = StateDirectory(paths.state).lock(paths.home)
    code, out, err = run(paths, capsys, "--state", "--yes")
    lock.release()
    assert (code, out) == (2, "")
    said = f"another meshd (pid {os.getpid()}) runs on {paths.home}"
    assert err == f"meshd: {said}; use `meshd --dir {paths.home} leave` first\n"
    assert kernel.read().state == OURS


def test_purge_says_what_stayed(
    paths: Paths,
    kernel: Memory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> list[str]:
        raise OSError("route 10.2.0.0/24: busy")

    monkeypatch.setattr(kernel, "purge", fail)
    code, _, err = run(paths, capsys, "--state", "--yes")
    assert (code, err) == (1, "meshd: some of it stayed in the kernel: route 10.2.0.0/24: busy\n")
    assert paths.config.exists()


def test_purge_works_where_no_node_is(
    tmp_path: Path, kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(Paths.under(tmp_path / "none"), capsys, "--state")
    assert code == 0
    assert "10.2.0.0/24" in out
    assert not (tmp_path / "none").exists()


def test_purge_of_the_state_must_be_confirmed(
    paths: Paths, kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(paths, capsys, "--state")
    assert code == 2
    assert err == f"meshd: this would remove {paths.state} and {paths.config}; add --yes to do it\n"
    assert kernel.read().state == OURS


def test_the_authoritys_keys_and_what_they_need_are_kept(
    paths: Paths, kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(paths, capsys, "--state", "--yes")
    assert code == 0
    kept = {"meshd.toml", "state/authority.key", "state/authority-next.key", "state/grants"}
    assert left(paths) == kept
    assert f"kept {paths.state / 'authority.key'}" in out


def test_what_a_succession_has_moved_aside_is_kept_too(
    paths: Paths, kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("authority-0.key", "authority-next-0.key", "succession-1"):
        (paths.state / name).write_bytes((paths.state / "authority.key").read_bytes())
        (paths.state / name).chmod(0o600)
    for name in ("authority.key", "authority-next.key", "grants"):
        (paths.state / name).unlink()
    assert run(paths, capsys, "--state", "--yes")[0] == 0
    kept = ("authority-0.key", "authority-next-0.key", "succession-1")
    assert left(paths) == {"meshd.toml", *(f"state/{name}" for name in kept)}
    (paths.state / "authority-0.key").chmod(0o644)
    with pytest.raises(UsageError, match=r"authority-0\.key has mode 0644, not 0600; run: chmod"):
        StateDirectory.open(paths.state)


def test_a_mere_members_directory_goes_whole(
    paths: Paths, kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("authority.key", "authority-next.key", "grants"):
        (paths.state / name).unlink()
    (paths.home / "mine").touch()
    assert run(paths, capsys, "--state", "--yes")[0] == 0
    assert left(paths) == {"mine"}
    assert not paths.state.exists()
