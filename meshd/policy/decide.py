"""Import policy: from what the mesh says to what this kernel should hold. Pure.

Judged as a whole, whenever the table, the host or the configuration changes; the order in
which anything arrived never matters.  Per prefix the first refusal wins, and every prefix
that is announced gets a row that says what became of it and why.  What follows from nothing
that has changed is not found out again, but taken from the ``Memo``.

What came before matters in two places only, and both stand in the previous ``Decision``: a
node whose new set is over a limit keeps its last set, and what flaps is held back.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

import attrs

from meshd.kernel.state import Host, KernelState
from meshd.policy.choice import Choice, choose
from meshd.policy.damping import Damping, Key
from meshd.policy.filters import OPEN, Filters
from meshd.policy.ground import Ground
from meshd.policy.judge import Applicant, Judge
from meshd.policy.limits import within_limits
from meshd.policy.memo import Memo
from meshd.policy.origin import Origin
from meshd.policy.prefixes import Nets, outermost
from meshd.policy.route import Route
from meshd.policy.sheet import Sheet, sheet
from meshd.policy.tunnel import End, Terms, Tunnelling
from protocol.address import Prefix

HIDDEN_AFTER: Final = 24 * 3600.0
"""Seconds after which a failed sole origin loses its guard too (DESIGN 6; Serf's 24 h)."""


@attrs.frozen
class Decision:
    """What the kernel should hold, the rows that explain it, and what the next one must know."""

    desired: KernelState
    routes: tuple[Route, ...]
    clock_off: float | None = None
    """Seconds that our clock is ahead of what most members say, behind if negative, where that
    is too far to judge an end date by it; else None."""
    look_again: float = math.inf
    """Seconds after which time alone changes it."""
    in_force: Mapping[bytes, tuple[Prefix, ...]] = attrs.field(factory=dict)
    """Node to its set of prefixes that kept to the limits last; the other rules judge these."""
    failed: frozenset[bytes] = frozenset()
    """Nodes that no route leads through."""
    damping: Damping = attrs.field(factory=Damping)


NOTHING: Final = Decision(KernelState(), ())
"""Before the first."""


def decide(
    origins: Iterable[Origin],
    local: Iterable[Prefix],
    host: Host,
    unix_now: float,
    *,
    now: float = 0.0,
    filters: Filters = OPEN,
    previous: Decision = NOTHING,
    multipath: bool = False,
    tunnel: Terms | None = None,
    revoked: Container[bytes] = frozenset(),
    expelled: bool = False,
    memo: Memo | None = None,
) -> Decision:
    """Judge every announced prefix.

    ``local`` is what this node announces itself; ``unix_now``, in seconds, ends grants unless
    ``Decision.clock_off`` says that it cannot be right; ``now``, in seconds of any clock that
    only goes forward, is for damping.  ``multipath``: all origins that are as
    good as the best carry a prefix, not one of them.  ``tunnel``: how members are reached that
    are on no link of ours; None, not at all.  ``revoked`` holds the keys that are, and
    ``expelled`` says that ours is: then nothing is imported.  The store has dropped these
    already, and this is the last door before the kernel.  ``memo`` is for whoever decides again
    and again: it changes what a decision costs, and nothing that it says.
    """
    memo = memo if memo is not None else Memo()
    local = tuple(local)
    present = sorted(filter(_is_present, origins), key=attrgetter("key"))
    memo.only(frozenset(each.key for each in present))
    clock_off = _clock_off(present, unix_now)
    dated = unix_now if clock_off is None else -math.inf
    applicants = {o.key: _applicant(o, dated, revoked, expelled, memo) for o in present}
    # Who may not be where it says it is shall not keep others' prefixes out by it.
    members = [each.origin for each in applicants.values() if each.outright is None]
    reached = [(each.name, each.announcement.endpoints) for each in members]
    ground = memo.again("ground", b"", Ground, local, host, reached)
    ends = [End.of(each) for each in members] if tunnel is not None else []
    tunnelling = memo.again("tunnelling", b"", Tunnelling, tunnel, host, ground.fib, ends)

    def judge(key: bytes) -> Judge:
        grant, outright = applicants[key].origin.grant, applicants[key].outright
        return memo.again("judge", key, Judge, key, grant, outright, ground, filters)

    in_force, over = within_limits(
        present, previous.in_force, filters, lambda each, prefix: judge(each.key).welcomes(prefix)
    )
    failed = frozenset(o.key for o in present if o.state == "failed" and not o.held)
    damping = previous.damping.after(_gone(previous, in_force, failed), now)
    waiting = damping.waiting(now)

    def write(who: Applicant, ground: Ground, filters: Filters, *facts: *Facts) -> Sheet:
        # Its judge follows from who it is, the ground and the filters.
        return sheet(who.origin, judge(who.origin.key), ground, *facts)

    sheets = []
    for key, who in applicants.items():
        held = waiting.get(key, _NOTHING)
        facts: Facts = (tunnelling, in_force[key], over.get(key, ""), held)
        sheets.append(memo.again("sheet", key, write, who, ground, filters, *facts))
    choice = memo.again("choice", b"", choose, sheets, multipath)
    # What is held back keeps its guard, announced or not: its traffic must not leak meanwhile.
    welcome = [
        prefix
        for key in waiting.keys() & applicants.keys()
        for prefix in waiting[key]
        if prefix is not None and judge(key).welcomes(prefix)
    ]
    desired = memo.again("desired", b"", _desired, choice, frozenset(welcome), local, tunnelling)
    soonest = min((min(each.values()) for each in waiting.values()), default=math.inf)
    return Decision(desired, choice.rows, clock_off, soonest - now, in_force, failed, damping)


Facts = tuple[Tunnelling, tuple[Prefix, ...], str, Mapping[Prefix | None, float]]
"""What is the last that ``sheet`` is given."""

_NOTHING: Final[Mapping[Prefix | None, float]] = {}


def _is_present(origin: Origin) -> bool:
    return origin.state != "left" and not (
        origin.state == "failed" and origin.failed_for > HIDDEN_AFTER
    )


def _applicant(
    origin: Origin, dated: float, revoked: Container[bytes], expelled: bool, memo: Memo
) -> Applicant:
    """``dated``: unix seconds to judge an end date by."""
    # For how long matters no more: the same node a second later is to be equal.
    origin = origin._replace(failed_for=0.0) if origin.failed_for else origin
    ended = bool(origin.grant.until) and dated > origin.grant.until + GRACE
    gone = origin.key in revoked
    return memo.again("applicant", origin.key, Applicant.of, origin, expelled, gone, ended)


def _desired(
    choice: Choice,
    welcome: frozenset[Prefix],
    local: tuple[Prefix, ...],
    tunnelling: Tunnelling,
) -> KernelState:
    """``welcome``: what is held back, and would be taken."""
    guards, outer = choice.prefixes, choice.outermost
    if welcome:
        carried = Nets(choice.prefixes)
        guards |= {prefix for prefix in welcome if carried.containing(prefix) is None}
        outer = outermost(guards)
    return KernelState(
        routes=choice.routes,
        guards=guards,
        local=outermost(local),
        mesh=outer,
        tunnel=tunnelling.wanted(choice.routes.values()),
        admitted=tunnelling.admitted,
    )


GRACE: Final = 86_400.0
"""Seconds that a grant is honoured beyond its end: clocks differ (DESIGN 3)."""

CLOCK_TRUST: Final = 8 * 86_400.0
"""Seconds between our clock and the members' sequences beyond which it is the clock that is
wrong (DESIGN 3): a live member announces at least every 7.7 days, with a new boot key."""


def _clock_off(present: Sequence[Origin], unix_now: float) -> float | None:
    """How far our clock is ahead of the median of the newest sequences, if too far.

    Sequences are unix milliseconds where their owner's clock is right.  One that is gone says
    nothing of today: those that were not seen count only while nobody was.
    """
    counted = [each for each in present if each.seen] or present
    sequences = sorted(each.announcement.sequence for each in counted)
    if not sequences:
        return None
    middle, odd = divmod(len(sequences), 2)
    median = sequences[middle] if odd else (sequences[middle - 1] + sequences[middle]) / 2
    ahead = unix_now - median / 1000
    return ahead if abs(ahead) > CLOCK_TRUST else None


def _gone(
    previous: Decision, in_force: Mapping[bytes, tuple[Prefix, ...]], failed: frozenset[bytes]
) -> Iterator[Key]:
    """What has flapped since: prefixes that were withdrawn, nodes that failed."""
    for node, before in previous.in_force.items():
        after = in_force.get(node, ())
        if after is not before:
            there = frozenset(after)
            yield from ((node, prefix) for prefix in before if prefix not in there)
        if node in failed and node not in previous.failed:
            yield node, None
