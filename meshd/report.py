"""What ``status``, ``peers`` and ``routes`` say: the shapes that programs rely on.

DESIGN section 7 names the fields; fields are added freely and never renamed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Final

from meshd.authority import roll
from meshd.dataplane.status import KernelStatus
from meshd.policy.route import Route
from meshd.text import since
from protocol.identity import Mesh
from protocol.members import Member, State, choose_endpoint
from protocol.node import Node
from protocol.objects import Announcement
from protocol.store import Outcome, Store, slot_of

Json = dict[str, Any]

PAGE: Final = 512
"""Objects in one answer to ``records``: 300 KB at most, which no client is too slow for."""


def status(
    node: Node, mesh: Mesh, kernel: KernelStatus, backend: str, routes: Iterable[Route]
) -> Json:
    """``status --json``, without what only the process knows (pid, uptime)."""
    own, grant = node.announcement, node.grant
    states = [member.shown_state for member in node.members.values()]
    return {
        "mesh": mesh.id.hex(),
        "node": {
            "id": own.node.hex() if own else "",
            "name": grant.name if grant else "",
            "sequence": own.sequence if own else 0,
            "endpoints": [str(where) for where in own.endpoints] if own else [],
        },
        "root": node.store.root.hex(),
        "converged": node.converged and kernel.as_wanted,
        "agreed": node.converged,
        "isolated": node.isolated,
        "peers": {state: states.count(state) for state in ("alive", "suspect", "failed", "left")},
        "prefixes": {
            "local": [str(prefix) for prefix in node.prefixes],
            "remote": len({row.prefix for row in routes if row.state != "refused"}),
        },
        "kernel": {
            "backend": backend,
            "in_sync": kernel.in_sync,
            "error": kernel.error,
            "observing": kernel.observing,
            "repairs": {"total": kernel.repairs.total, "by": dict(kernel.repairs.by)},
        },
        "authority": authority(node.store),
    }


def authority(store: Store) -> Json:
    """Who speaks for the mesh, and how far a succession is that has not taken effect."""
    pending = store.pending
    if pending is None:
        return {"generation": store.generation, "pending": None}
    words = (*store.grants.all(), *store.revocations.all())
    heard = sum(
        word.generation == pending.generation and word.since <= pending.serial for word in words
    )
    waits = {"generation": pending.generation, "members": pending.count, "heard": heard}
    return {"generation": store.generation, "pending": waits}


def peers(node: Node, now: float) -> list[Json]:
    """``peers --json``, by name."""
    rows = [
        {**peer(member, now), "agrees": member.root == node.store.root}
        for member in node.members.values()
    ]
    return sorted(rows, key=lambda row: (str(row["name"]), str(row["id"])))


def peer(member: Member, now: float) -> Json:
    """One row of ``peers --json``."""
    return {
        "id": member.key.hex(),
        "name": member.name,
        "state": member.shown_state,
        "endpoint": _endpoint(member),
        "prefixes": [str(prefix) for prefix in member.prefixes],
        "sequence": member.announcement.sequence,
        "rtt_ms": round(1000 * member.rtt, 3) if member.rtt is not None else None,
        "since_s": round(now - member.shown_since, 1),
        "seen": member.seen,
        "reachable": member.reachable,
        "observed": str(member.observed) if member.observed is not None else None,
        "reason": _reason(member),
    }


def _state(row: Route, kernel: KernelStatus) -> str:
    """A foreign route on our very key keeps the kernel from taking ours: that is shadowed."""
    return "refused" if row.prefix in kernel.failed and row.state != "shadowed" else row.state


def _endpoint(member: Member) -> str | None:
    where = choose_endpoint(member.announcement, frozenset((4, 6)))
    return str(where) if where is not None else None


def _reason(member: Member) -> str:
    if not member.seen:
        return "not seen since we started"
    if member.state is State.ALIVE:
        return "" if member.reachable else "others reach it, we do not"
    return member.reason


def routes(rows: Iterable[Route], kernel: KernelStatus, now: float) -> list[Json]:
    """``routes --json``: what became of every prefix that the mesh announces, and why."""
    return [route(row, kernel, now) for row in rows]


def route(row: Route, kernel: KernelStatus, now: float) -> Json:
    """One row of it; ``now`` in the seconds that the decision was made by."""
    # What policy refused never came to the kernel.
    refused = kernel.failed.get(row.prefix) if row.state != "refused" else None
    held = round(max(0.0, row.until - now), 1) if row.until is not None else None
    reason = f"{row.reason}, for {since(held)} yet" if held is not None else row.reason
    return {
        "prefix": str(row.prefix),
        "node": row.name,
        "id": row.node.hex(),
        "next_hop": str(row.next_hop) if row.next_hop else None,
        "device": row.device,
        "state": _state(row, kernel),
        "rule": row.rule if refused is None or row.state == "shadowed" else "kernel",
        "reason": reason if refused is None else refused,
        "held_s": held,
        "conflict": {"id": row.winner.node.hex(), "prefix": str(row.winner.prefix)}
        if row.winner is not None
        else None,
    }


def grants(store: Store, unix_now: float) -> list[Json]:
    """``grants --json`` where there is no ledger: what the mesh knows."""
    found = roll.standings(
        dict(store.grants.items()),
        dict(store.revocations.items()),
        {},
        generation=store.generation,
        has_joined=store.announcements.__contains__,
        unix_now=unix_now,
    )
    return roll.as_json(found, unix_now)


def records(store: Store, start: bytes) -> Json:
    """Some of what authorities said, verbatim, and who has announced itself, from slot ``start``
    on; "next" is the slot to go on from, empty at the end."""
    objects: list[str] = []
    announced: list[str] = []
    for record in store.tree.from_slot(b"", start):
        if len(objects) + len(announced) >= PAGE:
            return {"objects": objects, "announced": announced, "next": slot_of(record).hex()}
        if isinstance(record, Announcement):
            announced.append(record.node.hex())
        else:
            objects.append(base64.b64encode(record.raw).decode())
    return {"objects": objects, "announced": announced, "next": ""}


def outcome(found: Outcome | None) -> str:
    """What became of an object that was delivered."""
    return found.name.lower() if found is not None else "unknown-authority"
