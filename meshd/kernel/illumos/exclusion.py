"""NAT exclusion: what its forms have in common, and none.

``pooled`` (nat = "ippool"): rules of the operator in ipf.conf and ipnat.conf, and a pool that is
ours to fill.  ``listed`` (nat = "ipnat"): a list of map lines that is ours as a whole.  Both keep
the kernel first and the file for the next boot after it.  What others put into the same pool or
list stays; where it says the same as we would, it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs

from meshd.kernel.illumos.runner import Done, Runner
from protocol.address import Prefix

Refusals = Mapping[Prefix | None, str]
"""Prefix to why it is not as wanted; None: all of it."""


@attrs.frozen
class Excluded:
    """What is excluded now."""

    local: frozenset[Prefix] = frozenset()
    mesh: frozenset[Prefix] = frozenset()
    table: bool = False
    problems: tuple[str, ...] = ()


@attrs.frozen
class Surroundings:
    """What a form has to know of the host."""

    interfaces: frozenset[str] = frozenset()
    default: str | None = None
    """Where the default route of IPv4 leads."""


class Exclusion(Protocol):
    """One form of it."""

    seen: str
    """What was last seen of what we keep: ``fingerprint`` then."""

    around: Surroundings
    """As they were seen last."""

    def unfit(self) -> str:
        """Why it cannot be kept until an operator has mended something. ``OSError`` as below."""

    def read(self) -> Excluded:
        """What the journal says is ours and the kernel has. ``OSError`` when the tools do not
        answer."""

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        """Make it so, as far as possible."""

    def clear(self) -> Refusals:
        """Take away all that is ours."""

    def fingerprint(self) -> str:
        """Changes when somebody changes what we keep. ``OSError`` as above."""

    def words(self, prefix: Prefix, *, add: bool) -> str:
        """What is done for it, told to a person."""


class Without:
    """nat = "off": nothing is kept."""

    seen = ""
    around = Surroundings()

    def unfit(self) -> str:
        return ""

    def read(self) -> Excluded:
        return Excluded()

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        del local, mesh
        return {}

    def clear(self) -> Refusals:
        return {}

    def fingerprint(self) -> str:
        return ""

    def words(self, prefix: Prefix, *, add: bool) -> str:
        del prefix, add
        return ""


def ask(runner: Runner, argv: tuple[str, ...], *, chatty: bool = False) -> str:
    """What a command prints. ``chatty``: what it says on standard error is no complaint."""
    done = runner.run(argv)
    if _denied(done):
        raise PermissionError(told(done))
    if done.code or (done.err and not chatty):
        raise OSError(told(done))
    return done.out


def rules(runner: Runner) -> str:
    """Those of ipf. "empty list" is said on standard error, and is no error."""
    return ask(runner, ("ipfstat", "-io"), chatty=True)


def told(done: Done) -> str:
    """What a command complains of, with the remedy where there is one."""
    if "I/O error" in done.err:
        return f"{done.complaint}: the packet filter is not enabled: svcadm enable ipfilter"
    if _denied(done):
        return f"{done.complaint}: the privilege sys_ip_config is missing"
    return done.complaint


def _denied(done: Done) -> bool:
    return "denied" in done.err or "Not owner" in done.err
