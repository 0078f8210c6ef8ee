"""Why: all that is known here of one prefix, address or node, as ``meshd explain`` shows it.

Reads the table, the last decision and the kernel, and changes nothing.  Programs may rely on the
fields; fields are added freely and never renamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Final

import attrs

from meshd import report, values
from meshd.dataplane.status import KernelStatus
from meshd.errors import Refused, UsageError
from meshd.kernel.state import ForeignRoute, Reading
from meshd.policy.decide import Decision
from meshd.policy.prefixes import Nets
from meshd.policy.route import Route
from protocol.address import Prefix
from protocol.identity import short_id
from protocol.node import Node
from protocol.objects import Grant

Json = dict[str, Any]

NAMED: Final = 3
"""Nodes that one line names where more would fit its sentence."""


@attrs.frozen
class Scene:
    """What there is to explain by."""

    node: Node
    me: bytes
    decision: Decision
    kernel: KernelStatus
    reading: Reading
    now: float
    """In the automaton's seconds."""


def explain(subject: str, scene: Scene) -> Json:
    """What ``subject`` is and why. ``Refused`` where nothing or too much is meant by it,
    ``UsageError`` where it is a prefix with a mistake in it."""
    try:
        asked = values.prefix_or_address(subject)
    except UsageError:
        if "/" in subject or ":" in subject:
            raise
        return _explain_node(_find(subject.strip(), scene), scene)
    return _explain_prefix(asked, scene)


# -- a prefix ------------------------------------------------------------------------------------


def _explain_prefix(asked: Prefix, scene: Scene) -> Json:
    rows = [row for row in scene.decision.routes if asked.overlaps(row.prefix)]
    local = [prefix for prefix in scene.node.prefixes if asked.overlaps(prefix)]
    ours = scene.reading.state
    held = [prefix for prefix in ours.routes.keys() | ours.guards if asked.overlaps(prefix)]
    if not (rows or local or held):
        raise Refused(
            f"nobody announces {asked}, anything inside it or over it{_allowed(asked, scene)}"
        )
    prefixes = {row.prefix for row in rows}.union(held)
    return {
        "about": "prefix",
        "prefix": str(asked),
        "local": [str(prefix) for prefix in sorted(local)],
        "routes": [
            {
                **report.route(row, scene.kernel, scene.now),
                "relation": _relation(row.prefix, asked),
                "member": _member(row.node, scene),
                "grant": _grant(scene.node.store.grants.get(row.node)),
                "conflicts": _conflicts(row, scene),
            }
            for row in rows
        ],
        "kernel": [_holding(prefix, scene.reading) for prefix in sorted(prefixes)],
    }


def _allowed(asked: Prefix, scene: Scene) -> str:
    """Who could announce it, for whoever wonders why nobody does."""
    able = [
        grant.name
        for grant in scene.node.store.grants.all()
        if any(net.covers(asked) for net in grant.allow)
    ]
    if not able:
        return "; no grant known here allows it"
    more = f" and {len(able) - NAMED} more" if len(able) > NAMED else ""
    return f"; the grants of {', '.join(sorted(able)[:NAMED])}{more} would allow it"


def _relation(prefix: Prefix, asked: Prefix) -> str:
    if prefix == asked:
        return "exact"
    return "inside" if asked.covers(prefix) else "covers"


def _member(key: bytes, scene: Scene) -> Json | None:
    member = scene.node.members.get(key)
    if member is None:
        return None
    told = report.peer(member, scene.now)
    return {field: told[field] for field in ("state", "since_s", "seen", "reachable", "reason")}


def _conflicts(row: Route, scene: Scene) -> list[Json]:
    """Who stands against this row, and against whom it stands."""
    rows = scene.decision.routes
    found = []
    if row.winner is not None:
        found.append((row.winner.node, row.winner.prefix, False, row.reason))
    for other in rows:
        if other.winner == (row.node, row.prefix):
            found.append((other.node, other.prefix, True, other.reason))
    return [
        {
            "prefix": str(prefix),
            "node": _name(node, scene),
            "id": node.hex(),
            "wins": wins,
            "reason": reason,
            "grant": _grant(scene.node.store.grants.get(node)),
        }
        for node, prefix, wins, reason in found
    ]


def _holding(prefix: Prefix, reading: Reading) -> Json:
    """What the kernel has for exactly this prefix, of ours and of others."""
    ours = reading.state
    hops = ours.routes.get(prefix)
    return {
        "prefix": str(prefix),
        "route": hops.words(prefix.version) if hops is not None else None,
        "guard": prefix in ours.guards,
        "excluded": Nets(ours.mesh).containing(prefix) is not None,
        "foreign": [_foreign(each) for each in reading.host.foreign if each.prefix == prefix],
    }


def _foreign(route: ForeignRoute) -> str:
    words = [route.kind] if route.kind != "unicast" else []
    words += [f"via {route.next_hop}"] if route.next_hop is not None else []
    words += [f"dev {route.device}"] if route.device is not None else []
    return " ".join([*words, f"proto {route.protocol}", f"metric {route.metric}"])


# -- a node --------------------------------------------------------------------------------------


def _find(text: str, scene: Scene) -> bytes:
    """The node that ``text`` means: its name, its id, or the start of that."""
    shown = values.shown(text)
    grants = {grant.node: grant for grant in scene.node.store.grants.all()}
    named = [key for key, grant in grants.items() if grant.name == text]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(sorted(short_id(key) for key in named))
        raise Refused(f"{len(named)} nodes are called {shown}: ask by id, which begin {ids}")
    known = dict.fromkeys((*grants, *scene.node.store.revocations, scene.me))
    if re.fullmatch(r"[0-9a-f]{1,64}", text.lower()):
        begun = [key for key in known if key.hex().startswith(text.lower())]
        if len(begun) == 1:
            return begun[0]
        if begun:
            some = ", ".join(f"{short_id(key)} ({_name(key, scene)})" for key in begun[:NAMED])
            more = " and more" if len(begun) > NAMED else ""
            raise Refused(f"{len(begun)} ids begin with {shown}: {some}{more}; give more digits")
    near = get_close_matches(text, (grant.name for grant in grants.values()), 1)
    hint = f"did you mean {near[0]}?" if near else "`meshd peers` lists the others"
    raise Refused(f"no node here is called {shown}, nor does an id begin so; {hint}")


def _explain_node(key: bytes, scene: Scene) -> Json:
    node, now = scene.node, scene.now
    announcement = node.announcement if key == scene.me else node.store.announcements.get(key)
    damped = scene.decision.damping.held((key, None), now)
    answer: Json = {
        "about": "node",
        "id": key.hex(),
        "name": _name(key, scene),
        "self": key == scene.me,
        "state": None,
        "since_s": None,
        "reason": "",
        "seen": None,
        "reachable": None,
        "rtt_ms": None,
        "sequence": announcement.sequence if announcement is not None else None,
        "preference": announcement.preference if announcement is not None else None,
        "endpoints": [str(where) for where in announcement.endpoints] if announcement else [],
        "accused": list(_accusations(key, scene)),
        "grant": _grant(node.store.grants.get(key)),
        "announced": [str(prefix) for prefix in node.prefixes_of(key)],
        "routes": [
            report.route(row, scene.kernel, now) for row in scene.decision.routes if row.node == key
        ],
        "unstable_s": round(damped, 1) if damped else None,
    }
    member = node.members.get(key)
    if key in node.store.revocations:
        answer |= {"state": "revoked", "reason": "by the authority, for ever"}
    elif key == scene.me:
        answer |= {"state": "here"}
    elif member is None:
        answer |= {"state": "unknown", "reason": "it has a grant and has never announced itself"}
    else:
        told = report.peer(member, now)
        fields = ("state", "since_s", "reason", "seen", "reachable", "rtt_ms")
        answer |= {field: told[field] for field in fields}
    return answer


def _accusations(key: bytes, scene: Scene) -> Iterator[Json]:
    """Who says that it is silent, and how long ago we heard that."""
    member = scene.node.members.get(key)
    heard = member.heard if member is not None else {}
    for accusation in scene.node.evidence.against(key):
        when = heard.get(accusation.accuser)
        yield {
            "by": _name(accusation.accuser, scene),
            "id": accusation.accuser.hex(),
            "heard_s": round(scene.now - when, 1) if when is not None else None,
            "host_answers": accusation.refused,
        }


# -- both ----------------------------------------------------------------------------------------


def _name(key: bytes, scene: Scene) -> str:
    grant = scene.node.store.grants.get(key)
    return grant.name if grant is not None else short_id(key)


def _grant(grant: Grant | None) -> Json | None:
    if grant is None:
        return None
    return {
        "name": grant.name,
        "serial": grant.serial,
        "since": grant.since,
        "generation": grant.generation,
        "allow": _texts(grant.allow),
        "at": _texts(grant.at),
        "limit": grant.limit or None,
        "until": grant.until or None,
        "until_utc": values.moment(grant.until) if grant.until else None,
    }


def _texts(prefixes: Iterable[Prefix]) -> list[str]:
    return [str(prefix) for prefix in prefixes]
