"""What an operator gets wrong: one line that says what to do, the right exit code, nothing changed.

Every case leaves the directory as it was, byte for byte, and nothing in the kernel.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netlab import Lab, Mesh, Namespace, Zone, until
from netlab.kernelview import Holdings, holdings
from netlab.mesh import MESHD

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]
Done = subprocess.CompletedProcess[str]
Deed = Callable[[Path], object]

NO, USAGE = 1, 2


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    """Two routers run meshd; the third has a network, and nothing else yet."""
    mesh = shared_mesh(shared_lab(3))
    mesh.found(1)
    mesh.join(2)
    mesh.converge()
    return mesh


@pytest.fixture(scope="module")
def template(mesh: Mesh) -> Path:
    """The third router's directory, as `meshd join` makes it."""
    return mesh.join(3, run=None).directory


@pytest.fixture
def node(template: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(template, tmp_path / "node"))


@pytest.fixture
def place(mesh: Mesh) -> Iterator[Namespace]:
    """The third router, in whose kernel there is nothing of meshd before and after."""
    router = mesh.lab.router(3)
    assert holdings(router) == Holdings()
    yield router
    assert holdings(router) == Holdings()


def meshd(place: Namespace, directory: Path, *words: str, **options: str) -> Done:
    """A command that must end by itself within seconds."""
    command = [MESHD, "--dir", directory, *words]
    return place.run(command, check=False, timeout=20, **options)  # type: ignore[arg-type]


def tree(directory: Path) -> dict[str, tuple[str, bytes]]:
    """Every file below with its mode and content; the lock tells only who was here last."""
    found = {}
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        content = b""
        if path.is_symlink():
            content = os.readlink(path).encode()
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        if path.name != "lock":
            found[str(path)] = (stat.filemode(mode), content)
    return found


def assert_said(done: Done, code: int, *words: str) -> None:
    """One line on standard error with all of `words`, and the exit code."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("meshd: ")
    for word in words:
        assert word in line


def edit(old: str, new: str) -> Deed:
    """Change the config file."""

    def deed(node: Path) -> None:
        config = node / "meshd.toml"
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new, 1))

    return deed


def add(line: str) -> Deed:
    return lambda node: (node / "meshd.toml").write_text(
        (node / "meshd.toml").read_text() + line + "\n"
    )


def mode(name: str, bits: int) -> Deed:
    return lambda node: (node / name).chmod(bits)


def symlink(node: Path) -> None:
    key = node / "state/node.key"
    key.rename(node / "elsewhere.key")
    key.symlink_to(node / "elsewhere.key")


def fifo(node: Path) -> None:
    (node / "state/node.key").unlink()
    os.mkfifo(node / "state/node.key", 0o600)


def empty(node: Path) -> None:
    os.truncate(node / "state/node.key", 0)


def another_owner(node: Path) -> None:
    try:
        os.chown(node / "state/node.key", 65534, 0)
    except OSError:
        pytest.skip("this user namespace knows one user only")


def cut_short(node: Path) -> None:
    key = node / "state/node.key"
    os.truncate(key, 40)


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (mode("state/node.key", 0o644), ["state/node.key", "0644", "chmod 600"]),
        (mode("state/node.key", 0o640), ["state/node.key", "0640", "chmod 600"]),
        (symlink, ["state/node.key", "symbolic link"]),
        (fifo, ["state/node.key"]),
        (cut_short, ["state/node.key", "65 bytes"]),
        (empty, ["state/node.key", "65 bytes"]),
        (another_owner, ["state/node.key", "own"]),
        (mode("state", 0o777), ["state", "0777", "chmod 700"]),
        (shutil.rmtree, ["meshd.toml", "does not exist", "meshd join"]),
        (add("anounce = []"), ["meshd.toml", "anounce", "did you mean announce"]),
        (edit("10.3.0.0/24", "10.3.0.1/24"), ["meshd.toml", "announce", "10.3.0.1/24",
                                              "10.3.0.0/24"]),
        (edit("10.3.0.0/24", "10.3.0.0/24\", \"10.3.0.0/25"), ["meshd.toml", "10.3.0.0/25",
                                                               "10.3.0.0/24", "lies inside"]),
        (edit("10.3.0.0/24", "198.51.100.0/24"), ["meshd.toml", "198.51.100.0/24", "grant"]),
        (edit("10.3.0.0/24", "10.3.0.0/33"), ["meshd.toml", "announce", "10.3.0.0/33"]),
        (add("port = 65536"), ["meshd.toml", "port", "65536", "65535"]),
        (add("port = ["), ["meshd.toml", "TOML"]),
        (add('nat = "maybe"'), ["meshd.toml", "nat", "maybe", "exempt"]),
        (lambda node: (node / "state/grant").write_bytes(b"x"), ["state/grant", "join"]),
    ],
    ids=lambda value: None if callable(value) else " ".join(value[:2]),
)  # fmt: skip
def test_a_wrong_file_stops_the_start(
    place: Namespace, node: Path, deed: Deed, words: list[str]
) -> None:
    deed(node)
    before = tree(node)
    assert_said(meshd(place, node, "run"), USAGE, *words)
    assert tree(node) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--announce", "10.9.0.1/24"], ["--announce", "10.9.0.1/24", "10.9.0.0/24"]),
        (["--announce", "10.3.0.128/25"], ["10.3.0.128/25", "10.3.0.0/24", "lies inside"]),
        (["--announce", "0.0.0.0/0"], ["0.0.0.0/0", "10.3.0.0/24 lies inside"]),
        (["--seed", "192.0.2.1:0"], ["--seed", "192.0.2.1:0"]),
        (["--advertise", "nowhere"], ["--advertise", "nowhere"]),
        (["--nonsense"], ["--nonsense", "--help"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_a_wrong_option_stops_the_start(
    place: Namespace, node: Path, options: list[str], words: list[str]
) -> None:
    before = tree(node)
    assert_said(meshd(place, node, "run", *options), USAGE, *words)
    assert tree(node) == before


@pytest.mark.parametrize("where", [0, 7, 60, 200, -1])
def test_a_token_with_one_character_altered_is_refused(
    place: Namespace, mesh: Mesh, tmp_path: Path, where: int
) -> None:
    token = _token(mesh, tmp_path)
    characters = list(token)
    characters[where] = "A" if characters[where] != "A" else "B"
    done = meshd(place, tmp_path / "new", "join", "-", stdin="".join(characters))
    assert_said(done, USAGE, "token", "copy it again")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("token", ["", "10.1.0.0/24", "meshd1-", "meshd1-AAAA", "\x1b[31m\x00"])
def test_what_is_no_token_is_refused(place: Namespace, tmp_path: Path, token: str) -> None:
    done = meshd(place, tmp_path / "new", "join", "-", stdin=token)
    assert_said(done, USAGE, "token")
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_token_after_its_time_is_refused(place: Namespace, mesh: Mesh, tmp_path: Path) -> None:
    token = mesh[1].command("invite", "late", "--valid", "1s").stdout.strip()
    ended = time.time() + 1
    until(lambda: time.time() > ended + 1, 5, "its second is over")
    done = meshd(place, tmp_path / "new", "join", "-", stdin=token)
    assert_said(done, USAGE, "token", "ended", "meshd invite")
    assert not (tmp_path / "new").exists()


def test_a_token_of_another_mesh_does_not_move_a_node_there(
    place: Namespace, node: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    meshd(place, other, "init", "--name", "x", "--advertise", "192.0.2.3")
    token = meshd(place, other, "invite", "y").stdout.strip()
    before = tree(node)
    assert_said(meshd(place, node, "join", "-", stdin=token), USAGE, str(node), "exists")
    assert tree(node) == before
    # What it would have brought, put there by hand: grant and config are of two meshes.
    assert meshd(place, tmp_path / "new", "join", "-", stdin=token).returncode == 0
    shutil.copy(tmp_path / "new/meshd.toml", node / "meshd.toml")
    before = tree(node)
    assert_said(meshd(place, node, "run"), USAGE, "state/grant", "authority", "join")
    assert tree(node) == before


def _token(mesh: Mesh, directory: Path) -> str:
    """A genuine one."""
    name = f"n{os.getpid()}-{directory.name[-8:].strip('-_').replace('_', '-').lower()}"
    return mesh[1].command("invite", name).stdout.strip()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--announce", "10.9.0.1/24"], ["--announce", "10.9.0.1/24", "10.9.0.0/24"]),
        (
            ["--announce", "10.9.0.0/24", "--announce", "10.9.0.0/16"],
            ["10.9.0.0/24", "lies inside"],
        ),
        (["--announce", "203.0.113.0/24"], ["--announce", "203.0.113.0/24", "grant"]),
    ],
    ids=lambda value: " ".join(value[-1:]),
)
def test_joining_and_founding_with_wrong_prefixes_write_nothing(
    place: Namespace, mesh: Mesh, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    new = tmp_path / "new"
    token = _token(mesh, tmp_path)
    assert_said(meshd(place, new, "join", "-", *options, stdin=token), USAGE, *words)
    assert_said(meshd(place, new, "init", "--name", "x", *options), USAGE, *words)
    assert not new.exists()
    # And the token is as good as before.
    assert meshd(place, new, "join", "-", stdin=token).returncode == 0


def test_a_second_node_is_not_made_over_the_first(
    place: Namespace, mesh: Mesh, node: Path, tmp_path: Path
) -> None:
    before = tree(node)
    token = _token(mesh, tmp_path)
    assert_said(meshd(place, node, "join", "-", stdin=token), USAGE, str(node), "exists")
    assert_said(meshd(place, node, "init", "--name", "x"), USAGE, str(node), "exists")
    assert tree(node) == before


def test_a_port_in_use_is_named(place: Namespace, node: Path) -> None:
    before = tree(node)
    with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 6179))
        assert_said(meshd(place, node, "run"), USAGE, "6179", "in use", "port")
    with place.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", 6179))
        assert_said(meshd(place, node, "run"), USAGE, "6179", "in use", "port")
    assert tree(node) == before


def test_without_the_privilege_the_daemon_says_which_it_needs(place: Namespace, node: Path) -> None:
    before = tree(node)
    done = _without("net_admin", place, [MESHD, "--dir", node, "run"])
    assert_said(done, USAGE, "CAP_NET_ADMIN")
    assert tree(node) == before


def _without(capability: str, place: Namespace, command: list[str | Path]) -> Done:
    """Run a command as root without one of root's capabilities."""
    sets = [f"--{which}=-{capability}" for which in ("bounding-set", "inh-caps")]
    return place.run(["setpriv", *sets, *command], check=False, timeout=20)


def test_a_directory_that_cannot_be_written_is_named(
    place: Namespace, node: Path, tmp_path: Path
) -> None:
    state = node / "state"
    state.chmod(0o500)
    before = tree(node)
    done = _without("dac_override", place, [MESHD, "--dir", node, "run"])
    assert_said(done, USAGE, str(state))
    assert tree(node) == before

    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    done = _without("dac_override", place, [MESHD, "--dir", closed / "new", "init", "--name", "x"])
    assert_said(done, USAGE, str(closed))
    assert list(closed.iterdir()) == []


def test_a_second_meshd_on_a_directory_is_refused_and_the_first_goes_on(mesh: Mesh) -> None:
    first = mesh[1]
    before = tree(first.directory)
    assert first.process is not None
    done = first.command("run", check=False, timeout=20)
    assert_said(done, USAGE, "another meshd", str(first.process.pid), str(first.directory))
    assert tree(first.directory) == before
    assert first.json("status")["converged"] is True
    # The same in another namespace, where the port is free.
    done = meshd(mesh.lab.router(3), first.directory, "run")
    assert_said(done, USAGE, "another meshd", str(first.process.pid))


def test_what_overlaps_ones_own_or_anothers_is_not_announced(mesh: Mesh) -> None:
    first, second = mesh[1], mesh[2]
    kernels = [holdings(member.zone.router) for member in (first, second)]
    before = tree(first.directory)
    mine: Zone = first.zone
    theirs: Zone = second.zone
    for prefix, code, words in (
        (str(next(mine.prefix4.subnets())), USAGE, [str(mine.prefix4), "lies inside"]),
        (str(next(theirs.prefix4.subnets())), NO, [str(theirs.prefix4), "r2", "overlaps"]),
        (str(theirs.prefix6), NO, [str(theirs.prefix6), "r2", "overlaps"]),
        (str(theirs.prefix4.supernet()), NO, [str(theirs.prefix4), "overlaps"]),
        ("10.200.0.1/24", USAGE, ["10.200.0.1/24", "10.200.0.0/24"]),
        ("198.51.100.0/24", USAGE, ["198.51.100.0/24", "grant"]),
        ("nonsense", USAGE, ["nonsense"]),
    ):
        assert_said(first.command("announce", prefix, check=False), code, prefix, *words)
    assert_said(first.command("withdraw", "10.99.0.0/24", check=False), NO, "10.99.0.0/24")
    # All or nothing.
    done = first.command("announce", "10.200.0.0/24", str(theirs.prefix4), check=False)
    assert_said(done, NO, str(theirs.prefix4))
    assert tree(first.directory) == before
    assert [holdings(member.zone.router) for member in (first, second)] == kernels


def test_a_config_that_became_wrong_changes_nothing_at_reload(mesh: Mesh) -> None:
    member = mesh[2]
    config = member.directory / "meshd.toml"
    good = config.read_text()
    kernel = holdings(member.zone.router)
    try:
        config.write_text(good.replace("10.2.0.0/24", "10.2.0.7/24"))
        assert_said(member.command("reload", check=False), USAGE, "meshd.toml", "10.2.0.7/24")
    finally:
        config.write_text(good)
    assert holdings(member.zone.router) == kernel
    assert member.json("status")["prefixes"]["local"] == ["10.2.0.0/24", "fd00:6179:2::/64"]
    assert member.command("reload").returncode == 0


@pytest.mark.parametrize(
    "command", ["status", "peers", "routes", "plan", "leave", "reload", "watch", "announce 10.1/24"]
)
def test_without_a_daemon_commands_say_so(place: Namespace, node: Path, command: str) -> None:
    words = command.replace("10.1/24", "10.9.0.0/24").split()
    before = tree(node)
    assert_said(meshd(place, node, *words), NO, "run")
    assert tree(node) == before


def test_waiting_in_vain_is_told_by_the_exit_code(mesh: Mesh) -> None:
    done = mesh[1].command("wait", "--peers", "7", "--timeout", "0.3", check=False)
    assert_said(done, NO, "peers")
    assert_said(mesh[1].command("wait", "--timeout", "x", check=False), USAGE, "--timeout")
