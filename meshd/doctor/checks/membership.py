"""Is there a daemon, is this node a member, and is its clock right?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshd.doctor.facts import Facts
from meshd.doctor.finding import Finding, unchecked

SOON: Final = 7
"""Days before its end from which on a grant is worth a warning."""


def daemon(facts: Facts) -> Iterator[Finding]:
    """Whether a daemon runs and the kernel is as it wants it."""
    if "config" in facts.unseen:
        yield unchecked("config", facts.unseen["config"])
    if facts.daemon is None:
        reason = facts.unseen.get("daemon", "no daemon answers")
        yield unchecked("daemon", f"{reason}: what only the daemon knows was not checked")
        return
    kernel = facts.daemon.status.get("kernel", {})
    if kernel.get("error"):
        yield Finding(
            "daemon",
            "error",
            f"the daemon cannot make the kernel as it should be: {kernel['error']}",
            "routes or NAT exclusions are missing",
            f"meshd{facts.option} plan    # what it would do, and cannot",
        )
    elif facts.daemon.status.get("isolated"):
        yield Finding(
            "daemon",
            "warning",
            "most members were lost within seconds: this node holds its routes",
            "it is most likely this host's own link that is down",
            f"meshd{facts.option} peers    # whom it still reaches",
        )
    else:
        alive = facts.daemon.status.get("peers", {}).get("alive", 0)
        yield Finding("daemon", "ok", f"the daemon runs, and {alive} members are alive")


def grant(facts: Facts) -> Iterator[Finding]:
    """Whether others take routes from this node."""
    if facts.daemon is None:
        return
    standing = facts.daemon.status.get("membership") or {}
    name = facts.daemon.status.get("node", {}).get("name") or "NAME"
    days = standing.get("ends_in_days")
    renew = f"meshd renew {name} --until DATE    # where the authority's key is"
    if standing.get("reason"):
        yield Finding(
            "grant",
            "error",
            f"this node is no member: {standing['reason']}",
            "nobody speaks to it or takes routes from it",
            f"meshd grant $(ssh HERE meshd{facts.option} key) --name {name} --tell"
            "    # where the authority's key is",
        )
    elif isinstance(days, int) and days <= 0:
        yield Finding(
            "grant",
            "error",
            "this node's grant has ended",
            "a day after its end nobody takes routes from it",
            renew,
        )
    elif isinstance(days, int) and days <= SOON:
        finding = f"this node's grant ends in {days} day{'s' if days != 1 else ''}"
        yield Finding(
            "grant", "warning", finding, "a day after that nobody takes routes from it", renew
        )
    else:
        yield Finding("grant", "ok", "this node is a member")


def clock(facts: Facts) -> Iterator[Finding]:
    """Whether the clock is near the members', or at least kept by somebody."""
    mend = "timedatectl set-ntp true"
    off = facts.daemon.status.get("clock_off_s") if facts.daemon is not None else None
    if off is not None:
        days, where = abs(off) / 86_400, "ahead of" if off > 0 else "behind"
        yield Finding(
            "clock",
            "warning",
            f"this host's clock is {days:.0f} days {where} the members'",
            "no grant's end is judged here while it is, and the log is misleading",
            mend,
        )
    elif facts.daemon is not None:
        yield Finding("clock", "ok", "the clock is near the members'")
    elif facts.clock is None:
        yield unchecked("clock", "the kernel does not say whether its clock is synchronised")
    elif not facts.clock.synchronised:
        yield Finding(
            "clock",
            "warning",
            "nothing keeps this host's clock (adjtimex: not synchronised)",
            "a grant's end is judged by it",
            mend,
        )
    else:
        yield Finding("clock", "ok", "the clock is synchronised")
