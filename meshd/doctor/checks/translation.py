"""Is the source of mesh traffic rewritten on this host?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshd.doctor.facts import Facts
from meshd.doctor.finding import Finding, unchecked
from meshd.doctor.judge import translates
from meshd.doctor.ruleset import Chain
from meshd.doctor.traffic import IN, OUT, Lane, lanes, packets

OURS: Final = 99
"""The priority of our exclusion, one before srcnat: who sets a mapping first wins."""

WHY: Final = "the other side sees this router instead of the host, and replies or rules there fail"


def masquerade(facts: Facts) -> Iterator[Finding]:
    """Proved by connection tracking; foreseen from the rules that come before ours."""
    proved = list(_seen(facts))
    yield from proved
    if not facts.local:
        yield unchecked("masquerade", "nothing is announced here: there is no traffic to judge by")
        return
    if facts.rules is None:
        if not proved:
            yield unchecked("masquerade", facts.unseen.get("nftables", "no rules could be listed"))
        return
    foreseen = list(_foreseen(facts))
    yield from foreseen
    if proved or foreseen:
        return
    if facts.translations is None:
        yield unchecked("masquerade", facts.unseen.get("conntrack", "connections are not seen"))
    else:
        yield Finding("masquerade", "ok", "no connection within the mesh is translated")


def _seen(facts: Facts) -> Iterator[Finding]:
    found = facts.translations or ()
    if not found:
        return
    first = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    tool = f"conntrack -L -s {first.source} -d {first.destination}"
    yield Finding(
        "masquerade",
        "error",
        f"connections within the mesh are translated: {first.source} to {first.destination} is"
        f" seen as {first.seen_as}{more}",
        WHY,
        f"conntrack -D -s {first.source} -d {first.destination}    # if it comes back, see who"
        " translates:\nnft list ruleset | grep -nE 'masquerade|snat'\n"
        f"# and whether it does: {tool}",
        f"{first.source} -> {first.destination}",
    )


def _foreseen(facts: Facts) -> Iterator[Finding]:
    assert facts.rules is not None
    # With nat = "set" the table holds sets alone, for rules that the operator writes.
    excluded = bool(facts.table) and (facts.config is None or facts.config.nat != "set")
    told: set[tuple[Chain, str]] = set()
    for lane in lanes(facts):
        for chain in facts.rules.at("postrouting", lane.version, "nat"):
            if (chain.family, chain.table) == ("inet", "meshd"):
                continue
            if lane.direction == OUT and excluded and chain.priority > OURS:
                continue
            for packet in packets(lane):
                rule = translates(facts.rules, chain, packet)
                if rule is None or (chain, rule.text) in told:
                    continue
                told.add((chain, rule.text))
                yield _before(lane, chain, rule.text, excluded)
                break


def _before(lane: Lane, chain: Chain, rule: str, excluded: bool) -> Finding:
    if lane.direction == IN:
        return Finding(
            "masquerade",
            "warning",
            f"what comes from the mesh is translated on its way to {lane.oif}: {rule}",
            "hosts behind this router see it instead of the mesh's hosts",
            f"# exempt {lane.oif} from that rule of {chain}",
            str(chain),
        )
    if not excluded:
        return Finding(
            "masquerade",
            "warning",
            f"what goes from {lane.iif} into the mesh would be translated: {rule}",
            "table inet meshd, which exempts it, is not in the kernel while meshd has not run",
            "# start meshd; it exempts the mesh's subnets while nat is not off",
            str(chain),
        )
    return Finding(
        "masquerade",
        "error",
        f"what goes from {lane.iif} into the mesh is translated before meshd can exempt it: {rule}",
        f"{WHY}; that chain's priority is {chain.priority}, meshd's is {OURS}",
        f"# give that chain of {chain} the priority srcnat (100) or a later one",
        str(chain),
    )
