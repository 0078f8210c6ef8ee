"""From a directory to what the daemon runs on: everything checked before anything starts.

``prepare`` is the one place where a wrong file stops a start, in one line each.  It opens no
network socket and touches no kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from meshd import config as configuration
from meshd.authority.knowledge import readable, with_successors
from meshd.config import Config
from meshd.errors import UsageError
from meshd.paths import Paths
from meshd.sequence import Sequence
from meshd.state import NODE_KEY, OWN_GRANT, Lock, StateDirectory
from meshd.values import Announced, Followed, Seed
from protocol.address import Endpoint
from protocol.errors import Rejected
from protocol.identity import Identity, Mesh
from protocol.objects import Grant, Successor

_FIXED: Final = (
    "authority",
    "next_authority_hash",
    "port",
    "metric",
    "nat",
    "kernel",
    "illumos",
    "tunnel",
    "when",
    "tunnel_port",
    "network",
)
"""Options that only a new start can change."""


@attrs.frozen
class Additions:
    """What the command line adds to the config, also again at each reload."""

    seeds: tuple[Seed, ...] = ()
    announce: tuple[Announced, ...] = ()
    advertise: tuple[Endpoint, ...] = ()
    observe: bool = False
    """Change nothing in the kernel, and announce nothing."""


@attrs.frozen
class RunOptions:
    """All that ``meshd.daemon.run`` needs; the state directory is locked."""

    paths: Paths
    additions: Additions
    config: Config
    """With the additions."""
    mesh: Mesh
    """With all authorities that are known here."""
    identity: Identity
    grant: Grant
    """This node's own, the newest known here, verified; it may be revoked by now."""
    successors: tuple[Successor, ...]
    """Those kept with it, verified: the mesh is as they have made it."""
    snapshot: tuple[bytes, ...]
    """The envelopes of the last snapshot, unchecked."""
    sequence: Sequence
    state: StateDirectory
    lock: Lock
    log_format: str
    """text or json."""
    warnings: tuple[str, ...]
    """What was found and mended at start, for the log."""

    def reload(self, grant: Grant | None = None) -> Config:
        """The config as the file has it now, with the additions; ``grant``: a newer own one.

        ``UsageError`` when it is wrong, or changes what only a new start can change.
        """
        fresh = load_config(self.paths, self.additions)
        for key in _FIXED:
            if getattr(fresh, key) != getattr(self.config, key):
                raise UsageError(
                    f"{self.paths.config}: {key} cannot change while the daemon runs; restart it"
                )
        check_announced(grant or self.grant, fresh.announce, str(self.paths.config))
        return fresh


def load_config(paths: Paths, additions: Additions) -> Config:
    """The config file with ``additions``, or ``UsageError``."""
    config = configuration.load(paths.config)
    try:
        return config.with_additions(additions.seeds, additions.announce, additions.advertise)
    except UsageError as error:
        raise UsageError(f"{paths.config} and the command line together: {error}") from None


def prepare(
    paths: Paths, additions: Additions, log_format: str, clock: Callable[[], float]
) -> RunOptions:
    """Load and check everything in ``paths`` and lock it. ``UsageError`` names what is wrong.

    ``clock``: unix seconds, for sequences.
    """
    config = load_config(paths, additions)
    mesh = configuration.mesh(config, paths.config)
    state = StateDirectory.open(paths.state)
    identity = state.read_key(NODE_KEY)
    lock = state.lock(paths.home)
    try:
        state.check_writable()
        warnings: list[str] = []
        snapshot = state.take_snapshot(warnings.append)
        mesh, grant, successors = own_grant(state, snapshot, mesh, identity)
        check_announced(grant, config.announce, str(paths.config))
        sequence = Sequence.load(state, clock)
        state.read_changes()  # A damaged file is said now, not at the first announce.
    except UsageError:
        lock.release()
        raise
    return RunOptions(
        paths=paths,
        additions=additions,
        config=config,
        mesh=mesh,
        identity=identity,
        grant=grant,
        successors=successors,
        snapshot=snapshot,
        sequence=sequence,
        state=state,
        lock=lock,
        log_format=log_format,
        warnings=tuple(warnings),
    )


def own_grant(
    state: StateDirectory, snapshot: Iterable[bytes], mesh: Mesh, identity: Identity
) -> tuple[Mesh, Grant, tuple[Successor, ...]]:
    """The mesh with its later authorities, this node's newest grant, and the Successor that was
    kept with it, from its own file and the snapshot. ``UsageError`` if there is no grant."""
    path = state.path / OWN_GRANT
    try:
        raw, *made = state.read_grant()
        kept = Grant.decode(raw)
        successors = tuple(map(Successor.decode, made))
    except Rejected as rejected:
        raise UsageError(f"{path} is damaged ({rejected.reason}); join anew") from None
    if kept.node != identity.public:
        raise UsageError(f"{path} is for another key than {NODE_KEY}; restore both from one copy")
    for each in successors:
        mesh = mesh.succeeded_by(each.made)  # trusted, as the token was that brought it
    remembered = list(readable(snapshot))
    more = [each for each in remembered if isinstance(each, Successor)]
    mesh = with_successors(mesh, [*successors, *more])
    found = [each for each in remembered if isinstance(each, Grant) and each.node == kept.node]
    for grant in sorted([kept, *found], key=lambda each: (each.version, each.hash), reverse=True):
        if grant.verify(mesh):
            return mesh, grant, successors
    raise UsageError(f"{path} is not signed by the authority in the config; join that mesh anew")


def check_announced(
    grant: Grant,
    announced: Iterable[Announced],
    where: str,
    remedy: str = "ask the authority for a wider grant",
) -> None:
    """``UsageError`` when ``grant`` does not let its node announce all that is named outright.

    ``where`` names the file or option that asks for it.  What an interface has changes by itself:
    it is judged whenever it does.
    """
    wanted = tuple(item for item in announced if not isinstance(item, Followed))
    for prefix in wanted:
        if not any(allowed.covers(prefix) for allowed in grant.allow):
            allowed_text = ", ".join(map(str, grant.allow)) or "nothing"
            raise UsageError(
                f"{where}: {prefix} is outside the grant of {grant.name},"
                f" which allows {allowed_text}; {remedy}"
            )
    if grant.limit and len(wanted) > grant.limit:
        raise UsageError(
            f"{where}: {len(wanted)} prefixes, but the grant of {grant.name} allows {grant.limit};"
            " announce fewer, or ask the authority for a wider grant"
        )


def kernel_backend(config: Config) -> str:
    """The name of the backend that ``config.kernel`` means on this system."""
    if config.kernel != "auto":
        return config.kernel
    if sys.platform.startswith("linux"):
        return "linux"
    if sys.platform == "sunos5":
        return "illumos"
    raise UsageError(f'no kernel backend for {sys.platform}; set kernel = "memory" to only watch')
