"""Where a packet's source ends up: filter, then NAT, as the kernel does it on the way out.

``fr_checknatout`` as RECORDED.md has it: for each mask length that any rule has, the longest
first, the bucket of the masked source; in a bucket the order of the list; the first rule that
matches ends it. A bucket holds every rule whose own source has that address, whatever its length,
and that is why "more specific wins" is no way out.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from illumosfakes import pool
from illumosfakes.machine import Machine, Table

DROPPED = "dropped"


def source_after(
    machine: Machine, source: str, destination: str, interface: str, proto: str = "tcp"
) -> str:
    """The source that a packet of a new connection leaves ``interface`` with, or DROPPED."""
    rule = _filtered(machine, source, destination, interface, proto)
    if rule is not None and rule["action"] == "block":
        return DROPPED
    found = _mapped(machine, source, destination, interface, proto, rule)
    return source if found is None else _translated(machine, found, source, interface)


def _filtered(
    machine: Machine, source: str, destination: str, interface: str, proto: str
) -> Table | None:
    last = None
    for rule in machine.filters:
        if (
            rule["way"] == "out"
            and rule["on"] in ("", interface)
            and rule["proto"] in ("", proto)
            and _in(machine, rule["from"], source)
            and _in(machine, rule["to"], destination)
        ):
            last = rule
            if rule["quick"]:
                break
    return last


def _in(machine: Machine, side: Table, address: str) -> bool:
    if side["pool"] is not None:
        table = machine.pool(side["pool"]) if side["resolved"] else None
        inside = table is not None and pool.contains(table, address)
    else:
        inside = IPv4Address(address) in IPv4Network(side["net"], strict=False)
    return inside is not side["not"]


def _mapped(
    machine: Machine, source: str, destination: str, interface: str, proto: str, rule: Table | None
) -> Table | None:
    lengths = sorted({_net(each["from"]).prefixlen for each in machine.nat}, reverse=True)
    for length in lengths:
        key = IPv4Network(f"{source}/{length}", strict=False).network_address
        bucket = [each for each in machine.nat if _net(each["from"]).network_address == key]
        for each in bucket:
            if each["interface"] not in ("*", interface):
                continue
            if IPv4Address(source) not in _net(each["from"]):
                continue
            if each["to"] is not None:
                inside = IPv4Address(destination) in _net(each["to"])
                if inside == each["not"]:
                    continue
            if each["portmap"] and proto not in each["portmap"].split()[0].split("/"):
                continue
            # fr_matchtag: without a filter rule the tag is not looked at.
            if rule is not None and each["tag"] != rule["tag"]:
                continue
            return each
    return None


def _translated(machine: Machine, rule: Table, source: str, interface: str) -> str:
    onto = _net(rule["onto"])
    if onto.prefixlen == 0:
        return source  # 0/0: "use the original"
    if rule["kind"] == "bimap":
        offset = int(IPv4Address(source)) & int(onto.hostmask)
        return str(IPv4Address(int(onto.network_address) | offset))
    if rule["onto"] == "0.0.0.0/32":
        first = machine.interfaces[interface]["addresses"][0]
        return str(first).partition("/")[0]
    return str(onto.network_address + (1 if onto.prefixlen < 32 else 0))


def _net(text: str) -> IPv4Network:
    return IPv4Network(text, strict=False)
