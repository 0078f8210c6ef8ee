"""How many prefixes come in: a set over a limit is refused whole, and the last that was not stays.

Part of a set would be a choice that nobody made.  Pure: what was in force before is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from meshd.policy.filters import PER_NODE, Filters
from meshd.policy.origin import Origin, seniority
from protocol.address import Prefix


def within_limits(
    present: Sequence[Origin],
    before: Mapping[bytes, tuple[Prefix, ...]],
    filters: Filters,
    welcome: Callable[[Origin, Prefix], bool],
) -> tuple[dict[bytes, tuple[Prefix, ...]], dict[bytes, str]]:
    """Each node's set that is in force, and why it is not the one that the node announces.

    A node that left, that failed a day ago or that is revoked is not ``present`` and has no
    last set; nor has any at the first decision after a start, or when its last is itself over
    a limit that was lowered: then nothing of it is in force.  ``welcome`` tells what would come
    in, were there room: what is refused anyway takes nobody's.
    """
    tables = (filters.all, *filters.nodes.values())
    free = min(PER_NODE, *(table.limit for table in tables))
    wanted: dict[bytes, tuple[Prefix, ...]] = {}
    last: dict[bytes, tuple[Prefix, ...]] = {}
    over: dict[bytes, str] = {}
    for origin in present:
        key, number = origin.key, len(origin.prefixes)
        held = before.get(key, ())
        granted = origin.grant.limit or free
        if number <= free and number <= granted and len(held) <= free and len(held) <= granted:
            last[key], wanted[key] = held, origin.prefixes
            continue
        limit, whose = _limit(origin, filters)
        last[key] = held if len(held) <= limit else ()
        wanted[key] = origin.prefixes if number <= limit else last[key]
        if number > limit:
            over[key] = f"its node announces {number:,} prefixes, and {limit:,} is {whose}"
    if sum(map(len, wanted.values())) <= filters.limit:
        return wanted, over

    def size(origin: Origin, prefixes: tuple[Prefix, ...]) -> int:
        return sum(welcome(origin, prefix) for prefix in prefixes)

    sizes = {origin.key: size(origin, wanted[origin.key]) for origin in present}
    if sum(sizes.values()) <= filters.limit:
        return wanted, over
    # The same for all together, so that nobody's growth takes from what others have: first what
    # was in force and is still wanted, then what would grow, the oldest grants first.
    elders = sorted(present, key=lambda each: (seniority(each.grant), each.key))
    kept: dict[bytes, tuple[Prefix, ...]] = {}
    total = 0
    for origin in elders:
        key = origin.key
        shrinks = frozenset(last[key]).issuperset(wanted[key])
        kept[key] = wanted[key] if shrinks else last[key]
        if total + size(origin, kept[key]) > filters.limit:
            kept[key] = ()
        total += size(origin, kept[key])
    for origin in elders:
        key = origin.key
        if kept[key] == wanted[key]:
            continue
        more = sizes[key] - size(origin, kept[key])
        if total + more <= filters.limit:
            kept[key] = wanted[key]
            total += more
        else:
            over[key] = (
                f"with it there would be {total + more:,} prefixes in all, and {filters.limit:,} is"
                " the limit of this host (import.limit)"
            )
    return kept, over


def _limit(origin: Origin, filters: Filters) -> tuple[int, str]:
    """How many prefixes a node may announce to this host, and who says so."""
    limits = [(PER_NODE, "the most of any node")]
    if origin.grant.limit:
        limits.append((origin.grant.limit, "the limit of its grant"))
    for table, made in filters.of(origin.key, origin.grant.name):
        option = "limit_per_node" if table == "import" else "limit"
        limits.append((made.limit, f"the limit of this host ({table}.{option})"))
    return min(limits, key=lambda each: each[0])
