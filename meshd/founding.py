"""How a mesh begins and grows: ``init``, ``invite``, ``join``.

Everything is checked before the first file is made, no file is ever overwritten, and when
one cannot be written those before it are taken away again.  What the authority has given is
kept beside its key (``grants``), so that serials rise and two members do not share a name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import attrs

from meshd import client, records, values
from meshd import config as configuration
from meshd.advertise import advertised
from meshd.config import POOL, Config
from meshd.errors import Refused, StateError, UsageError
from meshd.files import create_file, make_directory
from meshd.invitation import Invitation, decode
from meshd.kernel import backend
from meshd.paths import Paths
from meshd.startup import check_announced, kernel_backend
from meshd.state import (
    AUTHORITY_KEY,
    KEYS,
    NEXT_AUTHORITY_KEY,
    NODE_KEY,
    StateDirectory,
    key_file,
)
from protocol.address import Endpoint, Prefix
from protocol.errors import Rejected
from protocol.identity import Identity, Mesh, short_id
from protocol.objects import Announcement, Grant, Revocation, check_name
from protocol.objects import decode as decode_object

SERVICE_USER: Final = "meshd"

_GRANTS: Final = "grants"
"""Records of ``token's valid-until u64 | grant``, one for each grant ever given here."""


@attrs.frozen
class GrantTerms:
    """What a grant allows; the options of ``init`` and ``invite``."""

    allow: tuple[Prefix, ...] = ()
    """Empty: anything in the pool."""
    at: tuple[Prefix, ...] = ()
    limit: int = 0
    until: int = 0

    def sign(self, authority: Identity, mesh: Mesh, node: bytes, name: str, serial: int) -> Grant:
        """The grant. ``UsageError`` when it would be too long for a datagram."""
        try:
            return Grant.sign(
                authority,
                mesh,
                node=node,
                name=name,
                serial=serial,
                allow=self.allow,
                at=self.at,
                limit=self.limit,
                until=self.until,
            )
        except Rejected as rejected:
            raise UsageError(f"{rejected.reason}; use fewer or larger --allow and --at") from None


@attrs.frozen
class World:
    """What founding takes from its surroundings, so that tests can give it."""

    clock: Callable[[], float]
    """Unix seconds."""
    random_bytes: Callable[[int], bytes]


def node_name(text: str) -> str:
    """``text`` if it is a node name, else ``UsageError``."""
    try:
        return check_name(text)
    except Rejected:
        raise UsageError(
            f"{values.shown(text)} is no node name; use 1 to 63 of a-z, 0-9, - and .,"
            " with a letter or digit at both ends"
        ) from None


def init(
    paths: Paths,
    world: World,
    *,
    name: str,
    announce: Iterable[Prefix] = (),
    pool: Iterable[Prefix] = (),
    advertise: Iterable[Endpoint] = (),
    terms: GrantTerms | None = None,
) -> tuple[Mesh, Identity]:
    """Make a new mesh whose authority, and first member ``name``, is this host."""
    _refuse_if_inhabited(paths, (*KEYS, _GRANTS))
    authority, following, node = (Identity.generate(world.random_bytes) for _ in range(3))
    mesh = Mesh.founded_by(authority.public, following.public)
    config = Config(
        authority=mesh.authority,
        next_authority_hash=mesh.next_hash,
        announce=values.distinct(announce),
        advertise=values.one_a_family(advertise),
        pool=values.distinct(pool) or POOL,
    )
    terms = _with_pool(terms or GrantTerms(), config.pool, world)
    serial = int(world.clock() * 1000)
    grant = terms.sign(authority, mesh, node.public, node_name(name), serial)
    check_announced(grant, config.announce, "--announce", "name it with --allow or --pool")
    _settle(
        paths,
        configuration.render(config, "init"),
        {
            AUTHORITY_KEY: key_file(authority),
            NEXT_AUTHORITY_KEY: key_file(following),
            _GRANTS: _dump_given([_Given(0, grant)]),
            "grant": records.dump([grant.raw]),
            NODE_KEY: key_file(node),
        },
    )
    return mesh, node


def invite(
    paths: Paths,
    world: World,
    *,
    name: str,
    valid: int,
    terms: GrantTerms,
    endpoints: Callable[[Config], Iterable[str]],
) -> tuple[str, Invitation]:
    """A token for a new member ``name`` that ``join`` takes for ``valid`` seconds.

    ``endpoints`` finds this node's own, as text, to be the token's first seeds.
    """
    node_name(name)
    config = configuration.load(paths.config)
    mesh = configuration.mesh(config, paths.config)
    state = StateDirectory.open(paths.state)
    if not state.has(AUTHORITY_KEY):
        raise UsageError(
            f"{paths.state / AUTHORITY_KEY} is not here;"
            " invite on the host where `meshd init` made the mesh"
        )
    authority = state.read_key(AUTHORITY_KEY)
    if authority.public != mesh.authority:
        raise UsageError(
            f"{paths.state / AUTHORITY_KEY} is not the key of the authority in {paths.config};"
            " restore both from one copy"
        )
    seeds = tuple(dict.fromkeys((*map(values.seed, endpoints(config)), *config.seeds)))
    if not seeds:
        raise UsageError(
            "no address is known under which the new member can reach this one;"
            f" start the daemon first, or set advertise in {paths.config}"
        )
    terms = _with_pool(terms, config.pool, world)
    now = world.clock()
    with state.authority_lock():
        given = _read_given(state)
        _refuse_if_taken(name, given, state, now)
        serial = max([int(now * 1000), *(item.grant.serial + 1 for item in given)])
        node = Identity.generate(world.random_bytes)
        grant = terms.sign(authority, mesh, node.public, name, serial)
        valid_until = int(now) + valid
        invitation = Invitation(mesh, seeds, valid_until, node, grant)
        token = invitation.encode()
        # Before it is shown: a serial that was used and forgotten could be used twice.
        state.write(_GRANTS, _dump_given([*given, _Given(valid_until, grant)]))
    return token, invitation


def own_endpoints(paths: Paths, config: Config) -> list[str]:
    """Where others reach this node: what its daemon says, else what a daemon would find."""
    with contextlib.suppress(Refused, UsageError):
        found = client.call(paths, "status", timeout=2.0)["node"]["endpoints"]
        if found:
            return [str(endpoint) for endpoint in found]
    if config.advertise:
        return [str(endpoint) for endpoint in config.advertise]
    try:
        kernel = backend(kernel_backend(config), metric=config.metric)
        try:
            host = kernel.read().host
        finally:
            kernel.close()
    except (OSError, UsageError):
        return []  # Without the privilege to look; `invite` says what to do instead.
    seeds = [Endpoint(seed.host, seed.port) for seed in config.seeds if _is_address(seed.host)]
    return [str(found) for found in advertised((), seeds, host, config.announce, config.port)]


def join(
    paths: Paths,
    world: World,
    token: str,
    *,
    announce: Iterable[Prefix] = (),
    advertise: Iterable[Endpoint] = (),
) -> Invitation:
    """Make this host the member that ``token`` was made for."""
    _refuse_if_inhabited(paths, (NODE_KEY, "grant"))
    invitation = decode(token, world.clock())
    grant = invitation.grant
    config = Config(
        authority=invitation.mesh.authority,
        next_authority_hash=invitation.mesh.next_hash,
        seeds=invitation.seeds,
        announce=values.distinct(announce),
        advertise=values.one_a_family(advertise),
    )
    check_announced(grant, config.announce, "--announce")
    _settle(
        paths,
        configuration.render(config, "join"),
        {"grant": records.dump([grant.raw]), NODE_KEY: key_file(invitation.identity)},
    )
    return invitation


# -- what the authority has given -------------------------------------------------------------


@attrs.frozen
class _Given:
    valid_until: int
    """Unix seconds: until then a token with this grant may still be used."""
    grant: Grant


def _dump_given(given: Iterable[_Given]) -> bytes:
    return records.dump(struct.pack(">Q", item.valid_until) + item.grant.raw for item in given)


def _read_given(state: StateDirectory) -> list[_Given]:
    path = state.path / _GRANTS
    content = state.read(_GRANTS)
    if content is None:
        raise UsageError(
            f"{path} is missing, which says what names and serials were given; restore it"
        )
    try:
        return [
            _Given(int.from_bytes(record[:8], "big"), Grant.decode(record[8:]))
            for record in records.load(content)
        ]
    except (records.Damaged, Rejected):
        raise UsageError(f"{path} is damaged; restore it from a copy") from None


def _refuse_if_taken(name: str, given: Iterable[_Given], state: StateDirectory, now: float) -> None:
    """A name is free again when its token ended unused, its grant ended or its key is revoked."""
    joined, revoked = _heard_of(state)
    for item in given:
        grant = item.grant
        if grant.name != name or grant.node in revoked or 0 < grant.until < now:
            continue
        whose = f"{name} is already the name of {short_id(grant.node)}"
        if item.valid_until == 0 or grant.node in joined:
            raise UsageError(f"{whose}, a member; choose another name")
        if item.valid_until > now:
            raise UsageError(
                f"{whose}, invited until {values.moment(item.valid_until)}; give it that token,"
                " wait until it ends, or choose another name"
            )


def _heard_of(state: StateDirectory) -> tuple[set[bytes], set[bytes]]:
    """Keys that have announced themselves, and keys that are revoked, by the snapshot."""
    joined, revoked = set(), set()
    # A damaged snapshot is the daemon's to set aside; here it only means that we know less.
    with contextlib.suppress(records.Damaged):
        for raw in state.read_snapshot():
            with contextlib.suppress(Rejected):
                found = decode_object(raw)
                if isinstance(found, Announcement):
                    joined.add(found.node)
                elif isinstance(found, Revocation):
                    revoked.add(found.node)
    return joined, revoked


# -- what init and join have in common ----------------------------------------------------------


def _with_pool(terms: GrantTerms, pool: tuple[Prefix, ...], world: World) -> GrantTerms:
    if terms.until and terms.until <= world.clock():
        raise UsageError(f"--until {values.moment(terms.until)} is past; give a later date")
    return terms if terms.allow else attrs.evolve(terms, allow=pool)


def _refuse_if_inhabited(paths: Paths, names: Iterable[str]) -> None:
    for path in (paths.config, *(paths.state / name for name in names)):
        if os.path.lexists(path):
            raise UsageError(
                f"{path} exists: a node lives here already;"
                " choose another place with --dir, or move it away"
            )


def _settle(paths: Paths, config: str, files: dict[str, bytes]) -> None:
    """Write everything, or nothing: what was made is removed when something fails."""
    made: list[Path] = []
    try:
        made += make_directory(paths.state, 0o700)
        made += make_directory(paths.config.parent, 0o755)
        if paths.root is None:
            _give_to_service_user(paths.state)
        for name, content in files.items():
            create_file(paths.state / name, content, 0o600)
            made.append(paths.state / name)
        create_file(paths.config, config.encode(), 0o644)
        made.append(paths.config)
        if paths.root is None:
            _give_to_service_user(paths.config)
    except (OSError, KeyboardInterrupt) as error:
        _undo(made)
        if isinstance(error, OSError):
            raise StateError(f"cannot give {error.filename} to user {SERVICE_USER}") from None
        raise
    except StateError:
        _undo(made)
        raise


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _undo(made: Iterable[Path]) -> None:
    for path in reversed(list(made)):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _give_to_service_user(path: Path) -> None:
    """Under the system's layout the daemon runs as ``meshd`` where that user exists."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(KeyError):
        user = pwd.getpwnam(SERVICE_USER)
        os.chown(path, user.pw_uid, user.pw_gid)
