"""Every timer and bound of the protocol, in one place; SPEC.md section 8 is this table.

Presets rather than knobs: ``Tuning.lan()`` is the default, ``Tuning.wan()`` stretches
what a longer round trip stretches.  All times are seconds.
"""

from __future__ import annotations

from typing import Final

import attrs

MAX_MEMBERS: Final = 8192
"""Grants held; beyond it those in the first slots stay, on every node alike (SPEC.md 5.2)."""

MAX_WAITING: Final = 256
"""Announcements held outside the store for want of a grant; the oldest goes first."""

MAX_CANDIDATES: Final = 1024
"""Nodes that said HELLO and have not yet spoken under their boot key; endpoints that were
asked and have not yet answered. The oldest goes first."""

MAX_ACCUSERS: Final = 8
"""Accusations kept per target: those with the smallest hashes."""

MAX_WANTED: Final = 1024
"""Offered objects waited for at a time; the root repairs what is beyond."""

MAX_OFFERERS: Final = 4
"""Members remembered that offered the same object: asked one after the other."""

MAX_SYNCS: Final = 4
"""Synchronisations under way at a time: a newcomer asks a few, not everyone it hears."""

MAX_HISTORY: Final = 64
"""Objects remembered in the order they came, to tell what came since a former root."""

MAX_RELAYED: Final = 256
"""Probes under way for others at a time; beyond it they are refused with silence."""

MAX_NONCES: Final = 4096
"""Own probes that may still be answered; the oldest goes first."""

MAX_OVERDUE: Final = 64
"""Requests given up whose answers are measured if they come; the oldest goes first."""

FANOUT_ALL: Final = 64
"""Up to this many members an origin tells everyone itself (DESIGN 5)."""


@attrs.frozen
class Tuning:
    """The timers of one kind of network."""

    probe_period: float = 0.5
    """One member is probed in each: 488 B/s with its ack on IPv4, headers included."""
    probe_timeout_floor: float = 0.03
    """Least wait for an ack; otherwise 4 smoothed round trips."""
    probe_timeout_unknown: float = 0.2
    """Longest wait for an ack of a member whose round trip is not known yet; as soon as any
    is, the mesh's own SRTT + 4 RTTVAR (RFC 6298)."""
    indirect_members: int = 3
    """SWIM's k (Das et al., DSN 2002; memberlist uses 3)."""
    indirect_timeout: float = 0.3
    """Longest wait for the k: their own probe at the unknown-RTT timeout, and two trips."""
    suspicion_min: float = 0.4
    """Suspicion lasts at least this long: room for a refutation, and for a host that stands still
    for half a second (simulated: of 48 such stalls of one of 16 none was taken for a death)."""
    suspicion_max: float = 2.5
    """... and at most this long while nobody else accuses (Lifeguard section IV-B)."""
    told_members: int = 4
    """A suspicion is told to this many, who probe at once; one of them must agree before
    anybody is accused (DESIGN 5)."""
    told_rate: float = 10.0
    told_burst: float = 16.0
    """Others' suspicions looked into per second: enough while a fifth of 100 die at once."""
    accuse_jitter: float = 0.05
    """Those who were told accuse within this, at random: who is late hears of three before."""
    hasten_rate: float = 4.0
    hasten_burst: float = 4.0
    """Probes brought forward for a death, per second: deaths come together (a rack, a switch)."""
    detours: int = 3
    """So often in a row others reach a member that we do not: then it is unreachable from
    here. At 10 % loss once is common, and thrice is 3 in 10 million."""
    isolation_window: float = 10.0
    """More than half of the peers lost within this: we are isolated (DESIGN 6)."""
    isolation_doubt: float = 5.0
    """One lost among many in doubt is held this long: twice the longest suspicion."""
    isolation_max: float = 600.0
    """Routes of those lost in an isolation are held at most this long (DESIGN 6)."""
    health_max: int = 8
    """Lifeguard's local health multiplier saturates here (memberlist: awareness max 8)."""
    late_tick: float = 0.25
    """A tick later than this (half a period) makes our own silences suspect, not others."""
    offer_patience: float = 0.005
    """An offered object is asked for when it has not arrived by itself within this."""
    offer_retry: float = 0.05
    """... and the next who offered is asked when no answer has come within this, or later where
    answers take longer."""
    relay_full: int = 3
    """Relays send an object in full to this many, above FANOUT_ALL members."""
    relay_patience: float = 0.04
    """News that its origin pushed to everyone, up to FANOUT_ALL members, is offered after this."""
    relay_rate: float = 20.0
    relay_burst: float = 8.0
    """News is passed on at once, that many times; under a flood, so many times a second."""
    relay_octets: int = 540
    """... but all copies together have this many octets at most: three of an announcement of
    four prefixes. Where not even two fit, none: what is large is offered, and had once."""
    delta_delay: float = 0.01
    """Who shows a root that was ours is sent what came since, unless it has come by then."""
    walk_delay: float = 0.02
    """Roots that differ are compared again after this: most often a push was on its way."""
    request_timeout: float = 0.25
    """A walk, pull, vouch or evidence request without answer is given up after this, or later
    where answers take longer (RFC 6298), at most eight times as long."""
    window_max: int = 8
    """Requests out at a time to one peer: 8 answers of 1,200 B fill a 1 ms, 10 MB/s path."""
    sync_rate: float = 5.0
    sync_burst: float = 8.0
    """Walks begun: while many join, roots differ all the time and news comes by itself."""
    serve_rate: float = 2000.0
    serve_burst: float = 1000.0
    """Answers to walks, pulls and scans per second: 2.4 MB/s at most."""
    agree_period: float = 0.1
    agree_max: float = 5.0
    """Rounds of agreement, while it is incomplete; in vain, doubling to max."""
    idle_walk_min: float = 1.0
    idle_walk_max: float = 300.0
    """A walk that taught nothing is not repeated with that peer for min, doubling to max."""
    fetch_retry: float = 0.05
    """A request for shards without answer is given up after this, or later where answers take
    longer."""
    fetch_first: float = 0.02
    fetch_max: float = 10.0
    """Shards are asked for again after first, doubling to max, while nothing comes."""
    fetch_patience: float = 30.0
    """Shards that cannot be had for this long are reported and no longer waited for."""
    hello_first: float = 0.1
    hello_max: float = 0.5
    """An asking HELLO is repeated at 0, first, doubling: to an address, up to max and while
    nobody live is known; to a node, without a max and for ``greeting_lifetime``. Each wait is
    drawn between half and one and a half of that."""
    greeting_lifetime: float = 30.0
    """Unanswered HELLOs to a node for so long: the detector's verdict stands."""
    stale_grace: float = 1.0
    """A probe that drew STALE counts as missed only after this."""
    candidate_lifetime: float = 60.0
    """A node that said HELLO and never spoke under its boot key is forgotten after this."""
    refute_first: float = 0.1
    refute_max: float = 60.0
    """Own announcements in answer to accusations: at most one per first, doubling to max."""
    start_members: int = 4
    """Members of the snapshot that are greeted at start, besides the seeds."""
    hello_rate: float = 20.0
    hello_burst: float = 40.0
    """Answers to HELLO and STALE per source address and second (/64 for IPv6)."""
    stale_rate: float = 200.0
    stale_burst: float = 400.0
    """STALEs in all. A node that restarted draws two a second, for so often it is probed;
    random octets by the ten thousand draw no more, and cost less."""
    stranger_verify_rate: float = 1000.0
    stranger_verify_burst: float = 4000.0
    """Signature checks per second for all HELLOs together, two for a newcomer: at 170 us each,
    a sixth of a core. Half of what is saved up is left to keys that the store knows: so there
    is enough for 1,000 newcomers at once and 500 a second."""
    source_verify_rate: float = 40.0
    source_verify_burst: float = 80.0
    """... for HELLOs of one source address (/64 for IPv6): two for each that is answered."""
    key_verify_rate: float = 4.0
    key_verify_burst: float = 16.0
    """... for HELLOs of one node key: it announces itself anew a few times a second at most."""
    member_verify_rate: float = 2000.0
    member_verify_burst: float = 16384.0
    """... and for what members send: a third of a core; saved up, the grants and announcements
    of a full store, so that a newcomer throws nothing away that it has asked for."""
    share_verify_rate: float = 200.0
    share_verify_burst: float = 1000.0
    """Of these, each member's own: ten times ``relay_rate``. Beyond it a quarter of what is
    saved up is left to the others; the rest, with what comes back while it is used, is a full
    store from one peer."""
    fault_rate: float = 0.1
    fault_burst: float = 16.0
    """Wrong signatures of one member before nothing that it sends is checked: an honest one
    sends none, for it has checked them itself."""
    boot_key_lifetime: float = 604_800.0
    """A boot key is replaced after a week, 10 % more or less (DESIGN 4)."""
    boot_key_grace: float = 60.0
    """The boot key before still opens for so long, and seals for those who have not named the
    new one: far above the seconds in which all who can be reached hear of it."""
    plea_period: float = 60.0
    """Who is no member any more asks so often whether there is another authority."""
    clone_silence: float = 60.0
    """Who yielded to another host with its key tries again after so long without a sign of it."""

    @classmethod
    def lan(cls) -> Tuning:
        return cls()

    @classmethod
    def wan(cls) -> Tuning:
        """Round trips of 20 to 300 ms instead of 0.1 to 5."""
        return cls(
            probe_period=1.0,
            probe_timeout_floor=0.1,
            probe_timeout_unknown=1.0,
            indirect_timeout=1.5,
            suspicion_min=2.0,
            suspicion_max=10.0,
            accuse_jitter=0.2,
            isolation_window=30.0,
            isolation_doubt=20.0,
            late_tick=0.5,
            offer_patience=0.05,
            offer_retry=0.4,
            relay_patience=0.1,
            delta_delay=0.05,
            walk_delay=0.1,
            agree_period=0.5,
            request_timeout=1.0,
            hello_max=1.0,
            fetch_retry=0.4,
            fetch_first=0.1,
            stale_grace=3.0,
        )
