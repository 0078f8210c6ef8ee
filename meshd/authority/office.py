"""What the authority's key is used for: ``invite``, ``grant``, ``renew``, ``revoke``.

The key may lie on a router or on a machine that is in no mesh: all it needs is its ledger
beside it, and a config (or a copy of one) that says which mesh it is.  What is known of the
mesh, from a daemon or a snapshot, is used where it can be had.

Rules kept here: only the authority in effect signs; what is signed is in the ledger before
anybody sees it; serials rise; a renewal keeps a node's place (``since``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from meshd import client, records, values
from meshd import config as configuration
from meshd.advertise import advertised
from meshd.authority import knowledge, ledger, roll
from meshd.authority.knowledge import Known
from meshd.authority.ledger import Entry, Ledger
from meshd.authority.roll import Standing
from meshd.authority.terms import GrantTerms, node_name
from meshd.config import Config
from meshd.errors import Refused, UsageError
from meshd.invitation import Invitation
from meshd.kernel import backend
from meshd.local.selection import candidates
from meshd.paths import Paths
from meshd.startup import kernel_backend
from meshd.state import (
    AUTHORITY_KEY,
    LEDGER,
    NODE_KEY,
    StateDirectory,
    key_lock,
    read_key,
)
from meshd.values import Seed
from meshd.world import World
from protocol.address import Endpoint
from protocol.errors import Rejected
from protocol.identity import Identity, Mesh, check_public_key, short_id
from protocol.objects import MAX_SEQUENCE, Announcement, Grant, Revocation, Successor

_SEEDS: Final = 4
"""Members that a token names out of a snapshot: one that answers is enough."""

_ID: Final = re.compile(r"[0-9a-f]{8,64}")
"""A key, or as many digits of it as the log shows."""


@attrs.frozen
class Book:
    """A ledger and what else is known of the mesh: all that can be said without the key."""

    directory: Path
    """Where the ledger lies."""
    ledger: Ledger
    known: Known
    """With the ledger's Successors."""
    unix_now: float

    @property
    def mesh(self) -> Mesh:
        return self.known.mesh

    @property
    def successor(self) -> Successor | None:
        """The one that made the mesh's newest authority."""
        made = [each for each in self.ledger.successors if each.made == self.mesh.newest]
        return made[-1] if made else self.known.store.successor(self.mesh.generation)

    def grant(self, node: bytes) -> Grant | None:
        """The newest of ``node``'s; what this ledger gave counts more than what the mesh has,
        where both are of one generation."""
        given, held = self.ledger.grants.get(node), self.known.store.grants.get(node)
        if given is None or not isinstance(given.word, Grant):
            return held
        if held is not None and held.generation > given.word.generation:
            return held
        return given.word

    @property
    def standings(self) -> list[Standing]:
        """Everybody of whom ledger or mesh know."""
        store, given = self.known.store, self.ledger.grants
        nodes = dict.fromkeys((*given, *store.grants))
        grants = {node: grant for node in nodes if (grant := self.grant(node)) is not None}
        revocations = dict(store.revocations.items())
        for node, revocation in self.ledger.revocations.items():
            if node not in revocations or revocations[node].generation < revocation.generation:
                revocations[node] = revocation
        return roll.standings(
            grants,
            revocations,
            given,
            generation=self.mesh.generation,
            has_joined=self.known.has_joined,
            unix_now=self.unix_now,
        )

    def find(self, text: str) -> Standing:
        """The node of that name (its newest holder) or key. ``UsageError`` if none, or many."""
        everybody = self.standings
        named = [each for each in everybody if each.name == text]
        holders = [each for each in named if each.holds_name]
        left = [each for each in named if each.state != "revoked"]
        named = holders or [*sorted(left or named, key=_since)][-1:]
        if not named and _ID.fullmatch(text):
            named = [each for each in everybody if each.node.hex().startswith(text)]
            if not named and len(text) == 64:
                return Standing(_node_key(text), None, "lapsed")
        if len(named) == 1:
            return named[0]
        if named:
            keys = ", ".join(short_id(each.node) for each in named)
            raise UsageError(f"{values.shown(text)} is the name of {keys}; give the key instead")
        raise UsageError(f"{values.shown(text)} is no member's name or key here; see: meshd grants")


@attrs.frozen
class Holder:
    """Who holds the key of the authority in effect; its file is locked meanwhile."""

    key: Identity
    book: Book
    config: Config
    world: World

    @property
    def mesh(self) -> Mesh:
        return self.book.mesh

    def invite(
        self, *, name: str, valid: int, terms: GrantTerms, seeds: Iterable[Seed]
    ) -> Invitation:
        """A token for a new member ``name``, with its key, that ``join`` takes for ``valid``
        seconds and that names ``seeds``."""
        return self._give(Identity.generate(self.world.random_bytes), name, valid, terms, seeds)

    def grant(
        self, node: bytes, *, name: str, valid: int, terms: GrantTerms, seeds: Iterable[Seed]
    ) -> Invitation:
        """The same for a key that was made elsewhere, and stays there; for one that has a grant
        it is given anew, in its old place."""
        return self._give(node, name, valid, terms, seeds)

    def _give(
        self,
        node: Identity | bytes,
        name: str,
        valid: int,
        terms: GrantTerms,
        seeds: Iterable[Seed],
    ) -> Invitation:
        node_name(name)
        key = node.public if isinstance(node, Identity) else node
        listed = tuple(dict.fromkeys(seeds))
        if not listed:
            raise UsageError(
                "no address is known under which the new member can reach another; start the"
                " daemon first, set advertise in the config, or name a member with --seed"
            )
        self._refuse_if_taken(name, key)
        now = self.world.clock()
        terms = terms.checked(self.config.pool, now)
        grant = terms.sign(self.key, self.mesh, key, name, self._serial(key), self._since(key))
        valid_until = int(now) + valid
        identity = node if isinstance(node, Identity) else None
        invitation = Invitation(
            self.mesh, listed, valid_until, identity, grant, self.book.successor
        )
        invitation.encode()  # what is too long is not given
        self._enter([Entry(grant, valid_until)])
        return invitation

    def renew(self, nodes: Sequence[str], changes: Mapping[str, Any]) -> list[Grant]:
        """New grants for ``nodes``, names or keys: their old terms, but for ``changes``."""
        now = self.world.clock()
        renewed: dict[bytes, Entry] = {}
        grants: dict[bytes, Grant] = {}
        for text in nodes:
            found = self.book.find(text)
            if found.state == "revoked":
                raise UsageError(
                    f"{_called(found)} is revoked, for as long as this authority lasts;"
                    " make it a new key: meshd invite NAME"
                )
            if found.grant is None or found.state == "lapsed":
                raise UsageError(
                    f"{_called(found)} has no grant of this authority;"
                    f" give it one: meshd grant {found.node.hex()} --name NAME"
                )
            if found.state == "unused":
                raise UsageError(
                    f"{_called(found)} never joined, and its token has ended;"
                    f" invite it again: meshd invite {found.name}"
                )
            terms = attrs.evolve(GrantTerms.of(found.grant), **changes)
            terms = terms.checked(self.config.pool, now)
            serial = self._serial(found.node) + len(renewed)
            since = found.grant.since
            grant = terms.sign(self.key, self.mesh, found.node, found.name, serial, since)
            unused = found.valid_until if found.state == "invited" else 0
            renewed[found.node] = Entry(grant, unused)
            grants[found.node] = grant
        self._enter(renewed.values())
        return list(grants.values())

    def revoke(self, text: str) -> tuple[Standing, Revocation]:
        """End the membership of a node, by name or key, for as long as this authority lasts."""
        found = self.book.find(text)
        held = self.book.ledger.revocations.get(found.node)
        if held is not None and held.generation == self.mesh.generation:
            return found, held  # and its signature would be the same
        since = self._since(found.node)
        if since is None:
            # It is none of those whom this authority took over, and must not count as one.
            since = self._serial(found.node) if self.mesh.generation else 0
        word = Revocation.sign(
            self.key,
            self.mesh,
            node=found.node,
            generation=self.mesh.generation,
            since=since,
        )
        self._enter([Entry(word)])
        return found, word

    def _enter(self, entries: Iterable[Entry]) -> None:
        self.book.ledger.with_entries(entries).write(self.book.directory)

    def _serial(self, node: bytes) -> int:
        """One above all that were used, also above what another copy of this key gave ``node``."""
        held = self.book.known.store.grants.get(node)
        theirs = held.serial if held and held.generation == self.mesh.generation else 0
        successor = self.book.successor
        made = successor.serial if successor is not None else 0
        now = int(self.world.clock() * 1000)
        serial = max(now, 1 + max(self.book.ledger.serial, theirs, made))
        if serial > MAX_SEQUENCE:
            raise UsageError(
                f"no serial is left for {short_id(node)}: somebody else has used the authority's"
                " key; see docs/authority.md, `authority.key stolen`"
            )
        return serial

    def _since(self, node: bytes) -> int | None:
        """``since`` of a node to whom this authority has given a grant before."""
        grant = self.book.grant(node)
        return grant.since if grant and grant.generation == self.mesh.generation else None

    def _refuse_if_taken(self, name: str, node: bytes) -> None:
        """A name is free again when its token ended unused, its grant ended or its key is
        revoked; a key is not."""
        now = self.book.unix_now
        for each in self.book.standings:
            if each.node == node and each.state == "revoked":
                raise UsageError(
                    f"{_called(each)} is revoked, for as long as this authority lasts;"
                    " make a new key on that host: meshd purge --state, then meshd key"
                )
            if each.name != name or each.node == node or not each.holds_name:
                continue
            whose = f"{name} is already the name of {short_id(each.node)}"
            if each.state == "invited":
                raise UsageError(
                    f"{whose}, invited until {values.moment(each.valid_until)}; give it that"
                    " token, wait until it ends, or choose another name"
                )
            if 0 < each.valid_until < now and not self.book.known.source:
                raise UsageError(
                    f"{whose}, and whether that one joined is not known here: there is neither a"
                    " daemon nor a snapshot; revoke it, or choose another name"
                )
            raise UsageError(f"{whose}, a member; choose another name")


@contextlib.contextmanager
def held(paths: Paths, world: World, file: Path | None = None) -> Iterator[Holder]:
    """The authority in effect, by its key in ``file``, or in the state directory of ``paths``.

    ``UsageError`` when the key is not here, or that of another mesh or generation.
    """
    config = configuration.load(paths.config)
    if file is None:
        file = paths.state / AUTHORITY_KEY
        state = StateDirectory.open(paths.state)
        if not state.has(AUTHORITY_KEY):
            raise UsageError(
                f"{file} is not here; do this where the authority's key is kept,"
                " or name it with --authority"
            )
    key = read_key(file)
    with key_lock(file):
        book = open_book(paths, world, file.parent)
        _check_in_effect(file, key, book, paths)
        yield Holder(key, book, config, world)


def open_book(paths: Paths, world: World, directory: Path) -> Book:
    """The ledger in ``directory``, beside what is known of the mesh of ``paths``."""
    mesh = configuration.mesh(configuration.load(paths.config), paths.config)
    found = ledger.read(directory)
    known = knowledge.learn(paths, mesh, found.successors)
    strangers = [each for each in found.entries[-1:] if not each.word.verify(known.mesh)]
    if strangers:
        raise UsageError(
            f"{directory / LEDGER} is the ledger of another mesh than {paths.config};"
            " keep each authority's key and ledger in a directory of its own"
        )
    return Book(directory, found, known, world.clock())


def _check_in_effect(file: Path, key: Identity, book: Book, paths: Paths) -> None:
    newest = book.mesh.newest
    if key.public == newest.key:
        return
    for generation in range(newest.generation):
        before = book.mesh.of_generation(generation)
        if before is not None and before.key == key.public:
            raise UsageError(
                f"{file} is the authority of generation {generation}, which generation"
                f" {newest.generation} has succeeded; use that one's key ({short_id(newest.key)})"
            )
    raise UsageError(
        f"{file} is not the key of the authority of {paths.config};"
        " restore both, and the ledger, from one copy"
    )


def seeds_for_token(paths: Paths, config: Config, given: Iterable[Seed]) -> list[Seed]:
    """Where a new member finds others: ``given``, else this node itself, else, on a machine
    that is no member, whom its copies of config and snapshot know."""
    listed = list(given)
    if not listed and os.path.lexists(paths.state / NODE_KEY):
        listed = [values.seed(text) for text in own_endpoints(paths, config)]
    elif not listed:
        listed = [values.seed(str(where)) for where in config.advertise]
        listed += [values.seed(str(where)) for where in _endpoints_of_members(paths)]
    return list(dict.fromkeys((*listed, *config.seeds)))


def _endpoints_of_members(paths: Paths) -> list[Endpoint]:
    with contextlib.suppress(records.Damaged):
        raws = StateDirectory(paths.state).read_snapshot()
        found = [each for each in knowledge.readable(raws) if isinstance(each, Announcement)]
        newest = sorted(found, key=lambda each: -each.sequence)
        return [where for each in newest[:_SEEDS] for where in each.endpoints]
    return []


def own_endpoints(paths: Paths, config: Config) -> list[str]:
    """Where others reach this node: what its daemon says, else what a daemon would find."""
    with contextlib.suppress(Refused, UsageError):
        found = client.call(paths, "status", timeout=2.0)["node"]["endpoints"]
        if found:
            return [str(endpoint) for endpoint in found]
    if config.advertise:
        return [str(endpoint) for endpoint in config.advertise]
    try:
        kernel = backend(kernel_backend(config), metric=config.metric, nat=config.nat)
        try:
            host = kernel.read().host
        finally:
            kernel.close()
    except (OSError, UsageError):
        return []  # Without the privilege to look; the error says what to do instead.
    seeds = [Endpoint(seed.host, seed.port) for seed in config.seeds if _is_address(seed.host)]
    announced = candidates(config.announce, host)
    return [str(found) for found in advertised((), seeds, host, announced, config.port)]


def public_key(text: str) -> bytes:
    """A node's key as ``meshd key`` prints it, or ``UsageError``."""
    if not re.fullmatch(r"[0-9a-f]{64}", text.strip()):
        raise UsageError(
            f"{values.shown(text)} is no key of 64 hex digits; copy what `meshd key` printed"
        )
    return _node_key(text.strip())


def _node_key(text: str) -> bytes:
    try:
        return check_public_key(bytes.fromhex(text))
    except Rejected as rejected:
        raise UsageError(f"{text} is no key: {rejected.reason}; run `meshd key` again") from None


def _since(each: Standing) -> int:
    return each.grant.since if each.grant is not None else 0


def _called(each: Standing) -> str:
    return f"{each.name} {short_id(each.node)}".strip()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
