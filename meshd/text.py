"""How results and events become text for people.

Pure functions from the daemon's JSON to lines.  Nothing that came from the network or from
a peer reaches a terminal unescaped: whatever is not printable is shown as ``\\x1b`` or
``\\u202e``.  Imports nothing heavy, for the commands that only talk to the control socket.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Json = Mapping[str, Any]

_NAME_WIDTH: Final = 16
"""Columns: the longest common event, kernel-repaired, and a blank."""

_COLOURS: Final = {
    "converged": "32", "peer-alive": "32", "peer-suspect": "33", "kernel-changed": "33",
    "peer-failed": "31", "refused": "31", "isolated": "31", "cloned": "31", "error": "31",
    "warning": "33", "clock-wrong": "31", "revoked": "31", "succession": "33",
    "grant-ending": "33", "grant-ended": "31",
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
    rows = [
        ("node", f"{_cell(node.get('name'))} {_cell(node.get('id'))}"),
        ("mesh", result.get("mesh")),
        ("sequence", node.get("sequence")),
        ("endpoints", node.get("endpoints")),
        ("converged", result.get("converged")),
        ("root", result.get("root")),
        ("peers", ", ".join(counts)),
        ("announced", prefixes.get("local")),
        ("learned", _count(prefixes.get("remote", 0), "prefix", "prefixes")),
        ("kernel", f"{_cell(kernel.get('backend'))}, {error or in_sync}"),
    ]
    if (off := result.get("clock_off_s")) is not None:
        days, where = abs(off) / 86_400, "ahead of" if off > 0 else "behind"
        rows.append(("clock", f"{days:.0f} days {where} the members: set it"))
    rows += _authority(result)
    if "uptime_s" in result:
        rows.append(("up", f"{since(result['uptime_s'])}, pid {result.get('pid')}"))
    return "\n".join(f"{name:<10} {_cell(value)}" for name, value in rows)


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
    heads = ("PREFIX", "NODE", "NEXT HOP", "STATE", "REASON")
    keys = ("prefix", "node", "next_hop", "state")
    rows = ((*(route.get(key) for key in keys), route.get("reason") or "") for route in result)
    return table(heads, rows)


def grants(result: Sequence[Json]) -> str:
    """``meshd grants``: one line for each node that an authority has spoken of."""
    heads = ("NAME", "ID", "STATE", "ALLOW", "AT", "LIMIT", "UNTIL")
    rows = (
        (
            row.get("name"),
            str(row.get("id", ""))[:8],
            _standing(row),
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


def _standing(row: Json) -> str:
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
