"""``succeed``: another authority takes the mesh over, in the word of the key set aside for it.

The members are those that the mesh has now, from a daemon or a snapshot.  That may be more
than the authority ever granted, if its key was stolen, and less, if the thief revoked some:
where there is a ledger, it says what was granted, and whoever it does not know is taken over
only when the operator says so by name.

Nothing is sent here.  What was made is written down first, keys before all else, and a file
that exists is never written over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import attrs

from meshd import config as configuration
from meshd import values
from meshd.authority import bundle, ledger, office
from meshd.authority.knowledge import Word, learn
from meshd.authority.ledger import Entry, Ledger
from meshd.authority.office import Book
from meshd.authority.roll import Standing
from meshd.authority.terms import GrantTerms
from meshd.errors import UsageError
from meshd.files import create_file, failure, make_directory
from meshd.paths import Paths
from meshd.state import (
    AUTHORITY_KEY,
    LEDGER,
    NEXT_AUTHORITY_KEY,
    key_file,
    key_lock,
    read_key,
    succession_file,
)
from meshd.world import World
from protocol import identity
from protocol.identity import Authority, Identity, Mesh, key_hash, short_id
from protocol.objects import MAX_GENERATION, Grant, Revocation, Successor

_LATEST: Final = 2**48
"""A serial of the year 10889: one beyond it is nobody's clock, and would leave none for later."""

Fate = Literal["taken", "dropped", "undecided", "out"]


@attrs.frozen
class Heir:
    """One node of the mesh, and whether the new authority takes it over."""

    node: bytes = attrs.field(repr=identity.short_id)
    name: str
    terms: GrantTerms
    """On which it is taken over: the ledger's, where it has any."""
    since: int
    fate: Fate
    """undecided: the operator must say; out: it is no member, and stays none."""
    note: str = ""
    """What differs between mesh and ledger."""


@attrs.frozen
class Plan:
    """Who would be taken over, before anything is made."""

    mesh: Mesh
    source: str
    """Where the members are from."""
    ledger: Path | None
    """What they were compared with: a ledger of the authority whose time ends."""
    heirs: tuple[Heir, ...]
    successors: tuple[Successor, ...]
    """Those before, for the ledger."""
    directory: Path
    """Where the new keys and the ledger go."""

    @property
    def generation(self) -> int:
        return self.mesh.generation + 1

    @property
    def taken(self) -> tuple[Heir, ...]:
        return tuple(heir for heir in self.heirs if heir.fate == "taken")

    @property
    def undecided(self) -> tuple[Heir, ...]:
        return tuple(heir for heir in self.heirs if heir.fate == "undecided")

    @property
    def bundle(self) -> Path:
        """The file from which it can be delivered, and again."""
        return self.directory / succession_file(self.generation)


@attrs.frozen
class Made:
    """What a succession left behind."""

    objects: tuple[bytes, ...]
    """The Successor, then the grants."""
    aside: tuple[tuple[Path, Path], ...]
    """Keys that were moved, with their new names."""


def plan(
    paths: Paths,
    world: World,
    following: Path,
    *,
    file: Path | None,
    drop: Sequence[str],
    keep: Sequence[str],
) -> Plan:
    """What ``carry_out`` would do with the key in ``following``; ``file``: of the new key.

    ``UsageError`` when that key cannot do it, or nothing is known of the members.
    """
    config = configuration.load(paths.config)
    directory = file.parent if file is not None else paths.state
    path = directory / LEDGER
    if os.path.lexists(path):
        book = office.open_book(paths, world, directory)
    else:
        known = learn(paths, configuration.mesh(config, paths.config))
        book = Book(directory, Ledger(), known, world.clock())
    _check_key(following, read_key(following), book.mesh, paths)
    if not book.known.source:
        raise UsageError(
            f"who is a member is not known here: no daemon answers on {paths.socket}, and there"
            f" is no {paths.state / 'snapshot'}; do this on a member's host, or copy its snapshot"
            " there"
        )
    # One that was left behind by a succession elsewhere tells nothing of its members.
    compared = path if os.path.lexists(path) and _is_present(book) else None
    heirs = _decided(_heirs(book, has_ledger=compared is not None), drop, keep)
    found = Plan(book.mesh, book.known.source, compared, heirs, _chain(book), directory)
    if not found.taken and not found.undecided:
        raise UsageError("nobody would be left; take over at least one member")
    return found


def carry_out(plan: Plan, world: World, following: Path) -> Made:
    """Make the new authority and all that it signs for those that are taken over.

    ``UsageError`` or ``StateError`` leave everything as it was.
    """
    with key_lock(following):
        by = read_key(following)
        new, after = (Identity.generate(world.random_bytes) for _ in range(2))
        made = Authority(plan.generation, new.public, key_hash(after.public))
        mesh = plan.mesh.succeeded_by(made)
        serial = max(int(world.clock() * 1000), *(heir.since for heir in plan.taken))
        grants = [
            heir.terms.sign(new, mesh, heir.node, heir.name, serial, heir.since)
            for heir in plan.taken
        ]
        successor = Successor.sign(
            by, mesh, made=made, serial=serial, members=[heir.node for heir in plan.taken]
        )
        objects = (successor.raw, *(grant.raw for grant in grants))
        words: list[Word] = [*plan.successors, successor, *grants]
        there = os.path.lexists(plan.directory / LEDGER)
        old = ledger.read(plan.directory) if there else Ledger()
        title = f"generation {plan.generation} of mesh {mesh.id.hex()}: meshd deliver FILE"
        files = {
            AUTHORITY_KEY: key_file(new),
            NEXT_AUTHORITY_KEY: key_file(after),
            plan.bundle.name: bundle.dump(objects, title).encode(),
        }
        with _all_or_nothing() as done:
            done.extend(make_directory(plan.directory, 0o700))
            aside = _move_aside(plan, done)
            for name, content in files.items():
                create_file(plan.directory / name, content, 0o600)
                done.append(plan.directory / name)
            old.with_entries(map(Entry, words)).write(plan.directory)
    return Made(objects, tuple(aside))


def _check_key(file: Path, key: Identity, mesh: Mesh, paths: Paths) -> None:
    wanted = key_hash(key.public)
    if wanted == mesh.newest.next_hash:
        if mesh.generation >= MAX_GENERATION:
            raise UsageError(f"this mesh has had {MAX_GENERATION} successions; make a new one")
        return
    for generation in range(mesh.generation):
        before = mesh.of_generation(generation)
        if before is not None and before.next_hash == wanted:
            raise UsageError(
                f"{file} has served: generation {generation + 1} came of it; to tell the mesh of"
                f" that again: meshd deliver {succession_file(generation + 1)}, which is beside its"
                " key"
            )
    what = "is an authority's own key, not" if _is_authority(key, mesh) else "is not"
    raise UsageError(
        f"{file} {what} the key that was set aside to end generation {mesh.generation} of the"
        f" mesh in {paths.config}; bring that authority's authority-next.key"
    )


def _is_authority(key: Identity, mesh: Mesh) -> bool:
    every = (mesh.of_generation(generation) for generation in range(mesh.generation + 1))
    return any(each is not None and each.key == key.public for each in every)


def _chain(book: Book) -> tuple[Successor, ...]:
    """The Successors that led to the newest authority, as far as they are known."""
    found = []
    for generation in range(1, book.mesh.generation + 1):
        made = book.mesh.of_generation(generation)
        every = [*book.ledger.successors, book.known.store.successor(generation)]
        found += [each for each in every if each is not None and each.made == made][:1]
    return tuple(found)


def _is_present(book: Book) -> bool:
    """The ledger is that of the mesh's newest authority."""
    made = book.ledger.successors
    return (made[-1].generation if made else 0) == book.mesh.generation


def _heirs(book: Book, *, has_ledger: bool) -> list[Heir]:
    """Everybody, by name: what the mesh says beside what the ledger does."""
    words = [each.word for each in book.ledger.entries] if has_ledger else []
    ours = [word for word in words if word.generation == book.mesh.generation]
    given = {word.node: word for word in ours if isinstance(word, Grant)}
    revoked = [word.node for word in ours if isinstance(word, Revocation)]
    heirs = []
    for each in book.standings:
        held = book.known.store.grants.get(each.node)
        granted = given.get(each.node)
        revoked_here = each.node in revoked
        best = granted or held or each.grant
        if best is None:
            heirs.append(
                Heir(each.node, each.name, GrantTerms(), 0, "out", "revoked; its grant is lost")
            )
            continue
        fate, note = _judge(each, held, granted, revoked_here=revoked_here, has_ledger=has_ledger)
        since = min(best.since, _LATEST)
        heirs.append(Heir(each.node, best.name, GrantTerms.of(best), since, fate, note))
    return heirs


def _decided(heirs: list[Heir], drop: Sequence[str], keep: Sequence[str]) -> tuple[Heir, ...]:
    """With what the operator says of them."""
    fates: dict[bytes, Fate] = {}
    for text in keep:
        heir = _find(heirs, text, "--keep")
        if heir.fate == "out":
            raise UsageError(f"--keep: {values.shown(text)} cannot be taken over: {heir.note}")
        fates[heir.node] = "taken"
    for text in drop:
        fates[_find(heirs, text, "--drop").node] = "dropped"
    return tuple(attrs.evolve(heir, fate=fates.get(heir.node, heir.fate)) for heir in heirs)


def _judge(
    each: Standing,
    held: Grant | None,
    granted: Grant | None,
    *,
    revoked_here: bool,
    has_ledger: bool,
) -> tuple[Fate, str]:
    if revoked_here:
        return "out", "revoked"
    if each.state == "revoked":
        return "taken", "revoked in the mesh, and not by the ledger"
    if each.state == "lapsed":
        return "out", "of an authority before"
    if held is None:
        if each.state in ("invited", "unused"):
            return "out", "its token was not used: invite it again"
        return "taken", "the mesh does not know it"
    if not has_ledger:
        return "taken", ""
    if granted is None:
        return "undecided", "not in the ledger"
    if GrantTerms.of(held) != GrantTerms.of(granted) or held.name != granted.name:
        return "taken", f"as the ledger has it; in the mesh: {_words(held)}"
    return "taken", ""


def _words(grant: Grant) -> str:
    allow = " ".join(map(str, grant.allow))
    until = values.moment(grant.until) if grant.until else "no end"
    return f"{grant.name}, {allow}, {until}"


def _find(heirs: Iterable[Heir], text: str, option: str) -> Heir:
    found = [heir for heir in heirs if heir.name == text] or [
        heir for heir in heirs if len(text) >= 8 and heir.node.hex().startswith(text)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(short_id(heir.node) for heir in found)
        raise UsageError(f"{option}: {values.shown(text)} is {keys}; give the key instead")
    raise UsageError(f"{option}: {values.shown(text)} is no member's name or key")


def _move_aside(plan: Plan, done: list[_Done]) -> list[tuple[Path, Path]]:
    """Where a key of before lies in the way of a new one, it goes under a name that says which
    generation it served."""
    moved = []
    for name in (AUTHORITY_KEY, NEXT_AUTHORITY_KEY):
        path = plan.directory / name
        if not os.path.lexists(path):
            continue
        stem = name.removesuffix(".key")
        public = read_key(path).public
        generations = [
            generation
            for generation in range(plan.generation)
            if (made := plan.mesh.of_generation(generation)) is not None
            and (made.key == public or made.next_hash == key_hash(public))
        ]
        if not generations:
            raise UsageError(f"{path} is none of this mesh's keys; move it away")
        target = plan.directory / f"{stem}-{generations[0]}.key"
        try:
            os.link(path, target)
            os.unlink(path)
        except OSError as error:
            raise failure(target, "write", error) from None
        moved.append((path, target))
        done.append((path, target))
    return moved


_Done = Path | tuple[Path, Path]
"""A file or directory that was made, or a file's old and new name."""


@contextlib.contextmanager
def _all_or_nothing() -> Iterator[list[_Done]]:
    """What the block lists is taken back if it fails."""
    done: list[_Done] = []
    try:
        yield done
    except (UsageError, KeyboardInterrupt):
        for each in reversed(done):
            with contextlib.suppress(OSError):
                if isinstance(each, tuple):
                    os.rename(each[1], each[0])
                elif each.is_dir():
                    each.rmdir()
                else:
                    each.unlink()
        raise
