"""How a mesh begins and a host becomes a member: ``init``, ``key``, ``join``.

Everything is checked before the first file is made, no file is ever overwritten, and when
one cannot be written those before it are taken away again.  What comes after, and needs the
authority's key, is in ``authority``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meshd import config as configuration
from meshd import records, values
from meshd.authority.ledger import Entry, Ledger
from meshd.authority.terms import GrantTerms, node_name
from meshd.config import POOL, Config
from meshd.errors import StateError, UsageError
from meshd.files import create_file, make_directory
from meshd.invitation import Invitation, decode
from meshd.paths import Paths
from meshd.startup import check_announced
from meshd.state import (
    AUTHORITY_KEY,
    KEYS,
    LEDGER,
    NEXT_AUTHORITY_KEY,
    NODE_KEY,
    OWN_GRANT,
    StateDirectory,
    is_authoritys,
    key_file,
)
from meshd.world import World
from protocol.address import Endpoint, Prefix
from protocol.identity import Identity, Mesh, short_id

SERVICE_USER: Final = "meshd"


def init(
    paths: Paths,
    world: World,
    *,
    name: str,
    announce: Iterable[values.Announced] = (),
    pool: Iterable[Prefix] = (),
    advertise: Iterable[Endpoint] = (),
    terms: GrantTerms | None = None,
) -> tuple[Mesh, Identity]:
    """Make a new mesh whose authority, and first member ``name``, is this host."""
    there = sorted(os.listdir(paths.state), reverse=True) if paths.state.is_dir() else []
    _refuse_if_inhabited(paths, (*KEYS, *filter(is_authoritys, there)))
    authority, following, node = (Identity.generate(world.random_bytes) for _ in range(3))
    mesh = Mesh.founded_by(authority.public, following.public)
    config = Config(
        authority=mesh.authority,
        next_authority_hash=mesh.next_hash,
        announce=values.distinct_announced(announce),
        advertise=values.one_a_family(advertise),
        pool=values.distinct(pool) or POOL,
    )
    terms = (terms or GrantTerms()).checked(config.pool, world.clock())
    serial = int(world.clock() * 1000)
    grant = terms.sign(authority, mesh, node.public, node_name(name), serial)
    check_announced(grant, config.announce, "--announce", "name it with --allow or --pool")
    _settle(
        paths,
        {
            AUTHORITY_KEY: key_file(authority),
            NEXT_AUTHORITY_KEY: key_file(following),
            LEDGER: Ledger((Entry(grant),)).content(),
            OWN_GRANT: records.dump([grant.raw]),
            NODE_KEY: key_file(node),
        },
        configuration.render(config, "init"),
    )
    return mesh, node


def key(paths: Paths, world: World) -> Identity:
    """This host's own key, made if there is none: what ``meshd grant`` asks for."""
    if os.path.lexists(paths.state / NODE_KEY):
        return StateDirectory.open(paths.state).read_key(NODE_KEY)
    if os.path.lexists(paths.state):
        StateDirectory.open(paths.state)  # or a key would be put where others can write
    node = Identity.generate(world.random_bytes)
    _settle(paths, {NODE_KEY: key_file(node)})
    return node


def join(
    paths: Paths,
    world: World,
    token: str,
    *,
    announce: Iterable[values.Announced] = (),
    advertise: Iterable[Endpoint] = (),
) -> Invitation:
    """Make this host the member that ``token`` was made for: with the key in the token, or,
    where it holds none, with this host's own."""
    _refuse_if_inhabited(paths, (OWN_GRANT,))
    invitation = decode(token, world.clock())
    grant = invitation.grant
    files = {OWN_GRANT: records.dump(invitation.kept)}
    if invitation.identity is not None:
        _refuse_if_inhabited(paths, (NODE_KEY,))
        files[NODE_KEY] = key_file(invitation.identity)
    else:
        _check_own_key(paths, grant.node, grant.name)
    config = Config(
        authority=invitation.mesh.authority,
        next_authority_hash=invitation.mesh.next_hash,
        seeds=invitation.seeds,
        announce=values.distinct_announced(announce),
        advertise=values.one_a_family(advertise),
    )
    check_announced(grant, config.announce, "--announce")
    _settle(paths, files, configuration.render(config, "join"))
    return invitation


def _check_own_key(paths: Paths, wanted: bytes, name: str) -> None:
    path = paths.state / NODE_KEY
    if not os.path.lexists(path):
        raise UsageError(
            f"this token holds no key, and {path} does not exist: use it where `meshd key` printed"
            f" {short_id(wanted)}..., or here run `meshd{paths.option} key` and ask for another"
        )
    own = StateDirectory.open(paths.state).read_key(NODE_KEY).public
    if own != wanted:
        raise UsageError(
            f"this token is for the key {short_id(wanted)}..., and {path} is {short_id(own)}...;"
            f" ask for another: meshd grant {own.hex()} --name {name}"
        )


# -- what init and join have in common ----------------------------------------------------------


def _refuse_if_inhabited(paths: Paths, names: Iterable[str]) -> None:
    for path in (paths.config, *(paths.state / name for name in names)):
        if os.path.lexists(path):
            raise UsageError(
                f"{path} exists: a node lives here already;"
                " choose another place with --dir, or move it away"
            )


def _settle(paths: Paths, files: dict[str, bytes], config: str | None = None) -> None:
    """Write everything, or nothing: what was made is removed when something fails."""
    made: list[Path] = []
    try:
        made += make_directory(paths.state, 0o700)
        if config is not None:
            made += make_directory(paths.config.parent, 0o755)
        if paths.root is None:
            _give_to_service_user(paths.state)
        for name, content in files.items():
            create_file(paths.state / name, content, 0o600)
            made.append(paths.state / name)
        if config is not None:
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
