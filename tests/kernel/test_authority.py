"""docs/authority.md, command by command: what it says is done on real routers, and their kernels
are read before, during and after."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from netlab import Lab, Mesh, until
from netlab.kernelview import Deletions, holdings
from netlab.mesh import MESHD, Member

NewLab = Callable[..., Lab]
Command = list[str | Path]

TEXT = (Path(__file__).parents[2] / "docs/authority.md").read_text()

RETURN_S = 90
"""A node that was put out asks once a minute whether another authority thinks otherwise."""


def steps(block: str) -> list[tuple[str, str]]:
    """Host and command of each line of the blocks with that word behind their fence."""
    found = re.findall(rf"^```{block}\n(.*?)^```", TEXT, re.M | re.S)
    assert found, block
    return [
        (host, command)
        for text in found
        for host, command in re.findall(r"^([a-z]+)# (.*)$", text, re.M)
    ]


class Book(Mesh):
    """A mesh whose routers are called a, b, c ... as in the text, which tells what to do."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        super().__init__(lab, directory)
        for name in ("usb", "vault", "root", "safe"):
            (directory / name).mkdir()

    def __enter__(self) -> Book:
        return self

    def _member(self, number: int) -> Member:
        name = "abcdef"[number - 1]
        return Member(self.lab.zone(number), self.directory / name, name)

    def host(self, name: str) -> Member:
        """The router of that name, be it a member or not yet."""
        number = "abcdef".index(name) + 1
        return self.members.setdefault(number, self._member(number))

    def enter(self, name: str, token: str) -> Member:
        """Join by a token, announcing the zone's IPv4 subnet as the text does, and run."""
        member = self.host(name)
        announce = ["--announce", str(member.zone.prefix4)]
        member.command("join", "-", *announce, stdin=token)
        member.start()
        return member

    def follow(self, block: str) -> str:
        """Do what these blocks say; what it printed."""
        return "".join(self.do(host, command) for host, command in steps(block))

    def do(self, host: str, command: str) -> str:
        """One line of the text, with its places moved below this mesh's directory."""
        if command == "meshd run":
            self.host(host).start()
            self.host(host).wait("--peers", "0")
            return ""
        safe = host == "safe"
        home = self.directory / host
        for place, real in (
            ("/var/lib/meshd", home / "state"),
            ("/etc/meshd", home),
            ("/media/", f"{self.directory}/"),
            ("/root/", f"{self.directory}/root/"),
        ):
            command = command.replace(place, str(real))
        router = self.lab.zone(1).router if safe else self.host(host).zone.router
        env = {
            **os.environ,
            "MESHD_DIR": str(home),
            "PATH": f"{MESHD.parent}:{os.environ['PATH']}",
        }
        done = router.run(["sh", "-ec", command], env=env)
        return done.stdout + done.stderr


@pytest.fixture
def grown(new_lab: NewLab, tmp_path: Path) -> Iterator[Callable[[str, int], Book]]:
    """A mesh of the members named, made as on the first day; the lab has more zones."""
    with ExitStack() as stack:

        def make(names: str, zones: int) -> Book:
            book = stack.enter_context(Book(new_lab(zones), tmp_path))
            book.follow("first")
            for name in names[1:]:
                token = book.host("a").command("invite", name).stdout
                book.enter(name, token)
            book.converge()
            return book

        yield make


def routes(book: Book, at: str) -> set[str]:
    """The IPv4 prefixes to which a router has routes of ours."""
    return {route.prefix for route in holdings(book.host(at).zone.router).routes}


def reaches(book: Book, at: str, names: str) -> None:
    """Wait until a router's routes are those to ``names``, and no other."""
    wanted = {str(book.host(name).zone.prefix4) for name in names}
    try:
        until(lambda: routes(book, at) == wanted, RETURN_S, "routes")
    except TimeoutError:
        said = f"{at} has {routes(book, at)}, not {wanted}\n{book.host(at).tail()}"
        raise AssertionError(said) from None


def has(book: Book, at: str, name: str) -> None:
    """Wait until a router has a route of ours to that one's subnet."""
    prefix = str(book.host(name).zone.prefix4)
    until(lambda: prefix in routes(book, at), RETURN_S, f"{at} has a route to {name}")


def lacks(book: Book, at: str, name: str) -> None:
    """Wait until a router has no route of ours to that one's subnet."""
    prefix = str(book.host(name).zone.prefix4)
    until(lambda: prefix not in routes(book, at), RETURN_S, f"{at} has no route to {name}")


@contextmanager
def steady(book: Book, names: str) -> Iterator[None]:
    """Nothing that these routers hold of each other is deleted in their kernels meanwhile."""
    with ExitStack() as stack:
        watches = [stack.enter_context(Deletions(book.host(name).zone.router)) for name in names]
        yield
    kept = [str(book.host(name).zone.prefix4).removesuffix("/24") for name in names]
    deleted = [line for watch in watches for line in watch.seen]
    assert [line for line in deleted if any(each in line for each in kept)] == []


def test_the_careful_way_renewal_and_revocation(new_lab: NewLab, tmp_path: Path) -> None:
    with Book(new_lab(4), tmp_path) as mesh:
        mesh.follow("first")
        mesh.follow("quick")
        mesh.follow("careful")
        mesh.converge()
        for at, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
            reaches(mesh, at, others)
        assert not list((tmp_path / "usb").glob("b.token"))
        secret = (tmp_path / "c/state/node.key").read_text().strip()
        assert secret not in (tmp_path / "usb/c.token").read_text()

        with steady(mesh, "abc"):
            mesh.follow("renew")
            wanted = {"10.2.0.0/24", "10.22.0.0/24"}
            until(lambda: routes(mesh, "c") >= wanted, 15, "the wider grant is honoured")
        (renewed,) = mesh.host("c").events("grant-renewed")
        assert renewed["until"] == "2100-01-01 00:00 UTC"

        with steady(mesh, "ab"):
            mesh.follow("revoke")
            until(lambda: "10.3.0.0/24" not in routes(mesh, "a") | routes(mesh, "b"), 15, "gone")
        assert mesh.host("b").events("revoked")[-1]["name"] == "c"
        until(lambda: mesh.host("c").events("revoked"), 15, "c is told")
        # It starts all the same, says why nobody listens, and nobody does.
        mesh.host("c").stop()
        mesh.host("c").start()
        mesh.host("c").wait("--peers", "0")
        (warning,) = mesh.host("c").events("warning")
        assert "the authority has revoked this node's key" in warning["reason"]
        assert "revoked this node's key" in mesh.host("c").command("status").stdout
        assert "10.3.0.0/24" not in routes(mesh, "a")

        mesh.follow("offline")
        reaches(mesh, "a", "d")
        reaches(mesh, "d", "a")
        assert not (tmp_path / "a/state/authority.key").exists()
        refused = mesh.host("a").command("invite", "x", check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "or name it with --authority" in refused.stderr


def test_a_lost_authority_is_succeeded_and_nobody_notices(
    grown: Callable[[str, int], Book], tmp_path: Path
) -> None:
    book = grown("abcd", 6)
    # One is away, and the host with the key is gone for good.
    book.host("d").stop()
    book.host("a").kill()
    old = tmp_path / "old"
    (tmp_path / "a").rename(old)
    with steady(book, "bc"):
        said = book.follow("lost")
        assert "generation 1 is the authority of 3 members" in said
        assert "not seen to have it yet: " in said
        assert "d (" in said
        for at in "bc":
            lacks(book, at, "a")
            has(book, at, "e")
        # Who was away comes back, and is in: by asking the others, not by being told.
        book.host("d").start()
        for at, others in (("b", "cde"), ("c", "bde"), ("d", "bce"), ("e", "bcd")):
            reaches(book, at, others)
        book.converge()
        (known, in_effect) = book.host("c").events("succession")
        assert (known["in_effect"], in_effect["in_effect"], in_effect["lapsed"]) == (False, True, 1)
        assert {book.host(name).json("status")["authority"]["generation"] for name in "bcde"} == {1}
        # The old authority lets nobody in, and its host is a member no more.
        refused = book.host("b").command(
            "invite", "x", "--authority", str(old / "state/authority.key"), check=False
        )
        assert refused.returncode == 2
        assert "which generation 1 has succeeded" in refused.stderr
        seed = ["--seed", str(book.host("b").zone.uplink4.ip)]
        token = book.lab.zone(6).router.run([MESHD, "--dir", old, "invite", "f", *seed]).stdout
        book.enter("f", token)
        until(lambda: book.host("b").events("refused"), 15, "f is refused")
        old.rename(tmp_path / "a")
        book.host("a").start()
        until(lambda: book.host("a").events("succession"), 15, "a is told")
        for at, others in (("b", "cde"), ("c", "bde"), ("e", "bcd")):
            reaches(book, at, others)
        # Unless the new one admits it again.
        book.follow("again")
        for at, others in (("a", "bcde"), ("b", "acde"), ("c", "abde")):
            reaches(book, at, others)
    # Whoever starts again knows the authority from its own files.
    book.host("c").kill()
    book.host("c").start()
    reaches(book, "c", "abde")
    book.host("b").command("revoke", "e")
    reaches(book, "c", "abd")


def test_what_a_thief_of_the_authoritys_key_did_is_undone(
    grown: Callable[[str, int], Book], tmp_path: Path
) -> None:
    book = grown("abc", 4)
    # d has a copy of the key: he lets himself in, and puts out c.
    stolen = tmp_path / "d"
    stolen.mkdir()
    copied = tmp_path / "copied"
    (copied / "state").mkdir(parents=True, mode=0o700)
    for name in ("meshd.toml", "state/authority.key", "state/grants", "state/snapshot"):
        (copied / name).write_bytes((tmp_path / "a" / name).read_bytes())
        (copied / name).chmod(0o600)
    thief = book.host("d")
    invite: Command = [
        MESHD,
        "--dir",
        copied,
        "invite",
        "thief",
        "--allow",
        str(thief.zone.prefix4),
    ]
    book.enter("d", thief.zone.router.run(invite).stdout)
    reaches(book, "b", "acd")
    revoke: Command = [MESHD, "--dir", copied, "revoke", "c"]
    (tmp_path / "word").write_text(thief.zone.router.run(revoke).stdout)
    thief.command("deliver", str(tmp_path / "word"))
    reaches(book, "a", "bd")
    until(lambda: book.host("c").events("revoked"), 15, "c is told")

    with steady(book, "ab"):
        undecided = book.host("a").command(
            "succeed", "--next", str(tmp_path / "vault/authority-next.key"), "--yes", check=False
        )
        assert undecided.returncode == 2
        assert "thief" in undecided.stderr.splitlines()[-1]
        assert not (tmp_path / "a/state/succession-1").exists()

        said = book.follow("stolen")
        assert "generation 1 is the authority of 3 members" in said
        for at, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
            reaches(book, at, others)
        # The key that he has signs nothing more that anybody believes.
        deeds = (["renew", "thief"], ["revoke", "b"])
        for number, words in enumerate(deeds):
            word = tmp_path / f"word-{number}"
            word.write_text(thief.zone.router.run([MESHD, "--dir", copied, *words]).stdout)
            refused = book.host("b").command("deliver", str(word), check=False)
            assert refused.returncode == 1
            assert "of an authority that was succeeded" in refused.stderr
        for at, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
            reaches(book, at, others)


def test_a_member_whose_key_was_stolen_gets_another(
    grown: Callable[[str, int], Book], tmp_path: Path
) -> None:
    book = grown("abc", 4)
    # The thief runs with c's key, elsewhere.
    shutil.copytree(tmp_path / "c", tmp_path / "d", ignore=shutil.ignore_patterns("*.sock"))
    before = (tmp_path / "c/state/node.key").read_text()
    with steady(book, "ab"):
        book.follow("member")
        for at, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
            reaches(book, at, others)
        assert (tmp_path / "c/state/node.key").read_text() != before
        thief = book.host("d")
        thief.start()
        until(lambda: thief.events("revoked"), 15, "the thief is told")
        assert str(thief.zone.prefix4) not in routes(book, "a")
        for at, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
            reaches(book, at, others)


def test_without_any_key_the_mesh_goes_on_and_a_new_one_can_be_made(
    grown: Callable[[str, int], Book], tmp_path: Path
) -> None:
    book = grown("abc", 4)
    for name in ("a/state/authority.key", "a/state/grants", "vault/authority-next.key"):
        (tmp_path / name).unlink()
    for name in "abc":
        book.host(name).kill()
        book.host(name).start()
    book.converge()
    reaches(book, "a", "bc")
    first = book.host("c").json("status")["mesh"]
    book.follow("both")
    reaches(book, "a", "b")
    reaches(book, "b", "a")
    assert book.host("a").json("status")["mesh"] != first
    assert book.host("c").json("status")["mesh"] == first
