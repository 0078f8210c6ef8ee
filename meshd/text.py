"""How results and events become text for people.

Pure functions from the daemon's JSON to lines.  Nothing that came from the network or from
a peer reaches a terminal unescaped: whatever is not printable is shown as ``\\x1b`` or
``\\u202e``.  Imports nothing heavy, for the commands that only talk to the control socket.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

Json = Mapping[str, Any]

_NAME_WIDTH: Final = 16
"""Columns: the longest common event, kernel-repaired, and a blank."""

_COLOURS: Final = {
    "converged": "32", "peer-alive": "32", "peer-suspect": "33", "kernel-changed": "33",
    "kernel-repaired": "33",
    "peer-failed": "31", "refused": "31", "isolated": "31", "cloned": "31", "error": "31",
    "warning": "33", "clock-wrong": "31", "revoked": "31", "succession": "33",
    "grant-ending": "33", "grant-ended": "31", "left-out": "33", "health-up": "32",
    "health-down": "31",
}  # fmt: skip
"""SGR codes (ECMA-48 section 8.3.117): green is good, yellow to be watched, red is bad."""


def escape(value: object) -> str:
    """``value`` as text without control, bidi or other unprintable characters."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def field(value: object) -> str:
    """A field's value in an event line: quoted where blanks would make it ambiguous."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(field(item) for item in value) or "-"
    text = escape(value)
    if text and not any(char in ' "=' for char in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def to_json(value: object) -> str:
    """One line, ASCII only: JSON's own escapes keep control characters from a terminal."""
    return json.dumps(value, default=str).replace("\x7f", "\\u007f")


def event_line(event: Json, colour: bool = False) -> str:
    """``12:00:01.123  peer-alive      name=b id=1a2b3c4d``: the time is UTC."""
    name = escape(event.get("event", "?"))
    padded = name.ljust(_NAME_WIDTH - 1)
    if colour and name in _COLOURS:
        padded = f"\x1b[{_COLOURS[name]}m{padded}\x1b[0m"
    clock = escape(event.get("time", ""))[11:23]
    fields = " ".join(
        f"{escape(key)}={field(value)}"
        for key, value in event.items()
        if key not in ("time", "event")
    )
    return f"{clock}  {padded} {fields}".rstrip()


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they must be, two blanks apart."""
    lines = [heads, *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def status(result: Json) -> str:
    """``meshd status``: a few lines, the state of things first."""
    node, peers = result.get("node", {}), result.get("peers", {})
    prefixes, kernel = result.get("prefixes", {}), result.get("kernel", {})
    counts = [f"{peers.get(state, 0)} {state}" for state in ("alive", "suspect", "failed", "left")]
    error = kernel.get("error")
    in_sync = "in sync" if kernel.get("in_sync") else "not in sync"
    if kernel.get("observing"):
        in_sync = f"{in_sync}; only observed: nothing is changed or announced, see `meshd plan`"
    rows = [
        ("node", f"{_cell(node.get('name'))} {_cell(node.get('id'))}"),
        ("mesh", result.get("mesh")),
        ("sequence", node.get("sequence")),
        ("endpoints", node.get("endpoints")),
        ("converged", result.get("converged")),
        ("root", result.get("root")),
        ("peers", ", ".join(counts)),
        ("announced", prefixes.get("local")),
        *_announce(result),
        ("learned", _count(prefixes.get("remote", 0), "prefix", "prefixes")),
        ("kernel", f"{_cell(kernel.get('backend'))}, {error or in_sync}"),
    ]
    if nat := kernel.get("nat"):
        rows.append(("nat", nat))
    if (off := result.get("clock_off_s")) is not None:
        days, where = abs(off) / 86_400, "ahead of" if off > 0 else "behind"
        rows.append(("clock", f"{days:.0f} days {where} the members: set it"))
    rows += _authority(result)
    if "uptime_s" in result:
        rows.append(("up", f"{since(result['uptime_s'])}, pid {result.get('pid')}"))
    return "\n".join(f"{name:<10} {_cell(value)}" for name, value in rows)


def _announce(result: Json) -> Iterator[tuple[str, object]]:
    """Where announced prefixes come from that nobody named, and what is left out and why."""
    for each in result.get("announce", ()):
        if str(each.get("announce")).startswith("interface:"):
            yield "", f"{_cell(each.get('announce'))}: {_cell(each.get('prefixes'))}"
    for each in result.get("announce", ()):
        for line in left_out(each):
            yield "left out", line


def left_out(each: Json) -> Iterator[str]:
    """A line for each prefix that is wanted and not announced, of one thing that is."""
    item = _cell(each.get("announce"))
    for out in each.get("left_out", ()):
        prefix = _cell(out.get("prefix") or item)
        source = "" if prefix == item else f" of {item}"
        yield f"{prefix}{source}: {_cell(out.get('reason'))}"


def _authority(result: Json) -> list[tuple[str, object]]:
    """Who speaks for the mesh, and whether this node is to be its member for long."""
    rows: list[tuple[str, object]] = []
    if (authority := result.get("authority")) is not None:
        words, pending = (
            f"generation {_cell(authority.get('generation'))}",
            authority.get("pending"),
        )
        if pending:
            words += (
                f"; generation {_cell(pending.get('generation'))} waits for its word on"
                f" {_cell(pending.get('heard'))}/{_cell(pending.get('members'))} members"
            )
        rows.append(("authority", words))
    standing = result.get("membership") or {}
    days = standing.get("ends_in_days")
    if standing.get("reason"):
        rows.append(("membership", standing["reason"]))
    elif isinstance(days, int) and days <= ENDING_DAYS:
        end = _moment(standing.get("until"))
        how = f"ends in {_count(days, 'day', 'days')}" if days else "has ended"
        rows.append(("membership", f"{how} ({end}): have it renewed where the authority's key is"))
    return rows


def plan(result: Json) -> str:
    """``meshd plan``: each step as a person would type it, and under it why."""
    lines = [f"# {escape(note)}" for note in result.get("notes", [])]
    for change in result.get("changes", []):
        lines += map(escape, str(change.get("step")).splitlines())
        lines += [f"    # {escape(change.get('why'))}"]
    if not result.get("steps"):
        lines.append("nothing to do: the kernel is as it should be")
    return "\n".join(lines)


def peers(result: Sequence[Json]) -> str:
    """``meshd peers``: one line a member."""
    if not result:
        return "no peers yet"
    heads = ("NAME", "ID", "STATE", "SINCE", "RTT", "ENDPOINT", "PREFIXES", "REASON")
    rows = (
        (
            peer.get("name"),
            str(peer.get("id", ""))[:8],
            peer.get("state"),
            since(peer.get("since_s")),
            _milliseconds(peer.get("rtt_ms")),
            peer.get("endpoint"),
            peer.get("prefixes"),
            peer.get("reason") or "",
        )
        for peer in result
    )
    return table(heads, rows)


def routes(result: Sequence[Json]) -> str:
    """``meshd routes``: one line for each prefix and origin, with the reason."""
    if not result:
        return "no routes yet"
    heads = ("PREFIX", "NODE", "NEXT HOP", "DEVICE", "STATE", "REASON")
    keys = ("prefix", "node", "next_hop", "device", "state")
    rows = ((*(route.get(key) for key in keys), route.get("reason") or "") for route in result)
    return table(heads, rows)


def grants(result: Sequence[Json]) -> str:
    """``meshd grants``: one line for each node that an authority has spoken of."""
    heads = ("NAME", "ID", "STATE", "ALLOW", "AT", "LIMIT", "UNTIL")
    rows = (
        (
            row.get("name"),
            str(row.get("id", ""))[:8],
            _granted(row),
            row.get("allow"),
            row.get("at") or "",
            row.get("limit") or "",
            _moment(row["until"]) if row.get("until") else "",
        )
        for row in result
    )
    return table(heads, rows)


ENDING_DAYS: Final = 30
"""Days before its end from which on a grant is said to end soon."""


def _granted(row: Json) -> str:
    state, days = row.get("state"), row.get("ends_in_days")
    if state == "invited" and row.get("token_until"):
        return f"invited until {_moment(row['token_until'])}"
    if state == "member" and isinstance(days, int) and days <= ENDING_DAYS:
        return f"ends in {_count(days, 'day', 'days')}"
    return str(state)


def _moment(unix: object) -> str:
    """As ``values.moment``, which would load what most commands need not."""
    if not isinstance(unix, int) or not 0 <= unix <= 253402300799:  # where the year 9999 ends
        return "after the year 9999"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))


def explanation(result: Json) -> str:
    """``meshd explain``: a paragraph for each thing that bears on what was asked."""
    return _about_node(result) if result.get("about") == "node" else _about_prefix(result)


def _about_prefix(result: Json) -> str:
    asked, kernel = result.get("prefix"), result.get("kernel", [])
    blocks = [
        _block(f"{_cell(prefix)}{_where(prefix, asked)} is announced here: local always wins", ())
        for prefix in result.get("local", [])
    ]
    for route in result.get("routes", []):
        related = {"exact": "", "inside": f", inside {_cell(asked)}"}.get(
            str(route.get("relation")), f", which covers {_cell(asked)}"
        )
        head = f"{_cell(route.get('prefix'))}{related}, by {_node(route)}: {_outcome(route)}"
        rows: list[tuple[str, object]] = [
            ("why", route.get("reason")),
            ("member", _standing(route.get("member"))),
            ("grant", _grant(route.get("grant"))),
        ]
        for other in route.get("conflicts", []):
            word = "wins over" if other.get("wins") else "loses to"
            rows.append(("conflict", f"{word} {_cell(other.get('prefix'))} of {_node(other)}:"))
            rows.append(("", other.get("reason") if other.get("wins") else None))
            rows.append(("", f"that one's grant: {_grant(other.get('grant'))}"))
        blocks.append(_block(head, rows))
    holdings = [(_cell(each.get("prefix")), _holding(each)) for each in kernel]
    if holdings:
        blocks.append(_block("the kernel has", holdings))
    return "\n\n".join(blocks)


def _where(prefix: object, asked: object) -> str:
    return "" if prefix == asked else f", which overlaps {_cell(asked)},"


def _about_node(result: Json) -> str:
    state, took = result.get("state"), result.get("since_s")
    told = "this node itself" if result.get("self") and state == "here" else _cell(state)
    if took is not None:
        told += f" for {since(took)}"
    if result.get("reason"):
        told += f": {_cell(result.get('reason'))}"
    rows: list[tuple[str, object]] = [("state", told)]
    if result.get("seen") is not None:
        seen = "seen since we started" if result.get("seen") else "not seen since we started"
        if state in ("alive", "suspect") and not result.get("reachable"):
            seen += ", reached by others and not from here"
        rows.append(("contact", f"{seen}, round trip {_milliseconds(result.get('rtt_ms'))}"))
    for each in result.get("accused", []):
        heard = each.get("heard_s")
        when = f", heard {since(heard)} ago" if heard is not None else ""
        why = ", though its host answers" if each.get("host_answers") else ""
        rows.append(("accused", f"of silence by {_cell(each.get('by'))}{when}{why}"))
    if result.get("unstable_s") is not None:
        held = since(result.get("unstable_s"))
        rows.append(("flapping", f"failed again and again: stable others are preferred for {held}"))
    rows.append(("sequence", result.get("sequence")))
    rows.append(("endpoints", result.get("endpoints")))
    rows.append(("grant", _grant(result.get("grant"))))
    routes, announced = result.get("routes", []), result.get("announced", [])
    rows.append(("announces", _count(len(announced), "prefix", "prefixes")))
    if result.get("self"):
        rows += [("", prefix) for prefix in announced]
    head = f"{_cell(result.get('name'))} {_cell(result.get('id'))}"
    body = [(_cell(route.get("prefix")), _outcome(route, why=True)) for route in routes]
    return "\n\n".join([_block(head, rows), *([_block("its prefixes", body)] if body else [])])


def _block(head: str, rows: Iterable[tuple[str, object]]) -> str:
    """A line and under it what belongs to it, in two columns."""
    cells = [(label, _cell(value)) for label, value in rows if value not in (None, "")]
    width = max((len(label) for label, _ in cells), default=0)
    return "\n".join([head, *(f"  {label:<{width}}  {value}".rstrip() for label, value in cells)])


def _node(item: Json) -> str:
    return f"{_cell(item.get('node'))} {_cell(item.get('id'))[:8]}"


def _outcome(route: Json, *, why: bool = False) -> str:
    """``installed via 192.0.2.2``, or what else became of it and by which rule."""
    hop, rule, reason = route.get("next_hop"), route.get("rule"), route.get("reason")
    told = _cell(route.get("state")) + (f" via {_cell(hop)}" if hop else "")
    if rule:
        told += f" ({_cell(rule)})"
    return told + (f": {_cell(reason)}" if why and reason else "")


def _standing(member: Json | None) -> str:
    if member is None:
        return "gone"
    reason = f": {_cell(member.get('reason'))}" if member.get("reason") else ""
    return f"{_cell(member.get('state'))} for {since(member.get('since_s'))}{reason}"


def _grant(grant: Json | None) -> str:
    if grant is None:
        return "none"
    limit, until = grant.get("limit"), grant.get("until_utc")
    renewed = grant.get("since", grant.get("serial")) != grant.get("serial")
    first = f" (its first was {_cell(grant.get('since'))})" if renewed else ""
    return (
        f"{_cell(grant.get('name'))}, serial {_cell(grant.get('serial'))}{first},"
        f" may announce inside {_cell(grant.get('allow'))}"
        + (f", sits inside {_cell(grant.get('at'))}" if grant.get("at") else "")
        + (f", at most {_cell(limit)} prefixes" if limit else "")
        + (f", until {_cell(until)}" if until else ", without end")
    )


def _holding(each: Json) -> str:
    route = each.get("route")
    told = [_cell(route) if route else "no route of ours"]
    told += ["guarded"] if each.get("guard") else ["no guard"]
    told += ["excluded from NAT"] if each.get("excluded") else ["not excluded from NAT"]
    told += [f"a foreign route {_cell(other)}" for other in each.get("foreign", [])]
    return ", ".join(told)


def since(seconds: object) -> str:
    """A length of time as people say it: 8s, 3m20s, 5h02m, 12d03h."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return "-"
    whole = int(max(0.0, min(seconds, 1e12)))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _count(number: object, one: str, many: str) -> str:
    return f"{_cell(number)} {one if number == 1 else many}"


def _milliseconds(value: object) -> str:
    return f"{value:.1f}ms" if isinstance(value, int | float) else "-"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(escape(item) for item in value) or "-"
    return escape(value)
