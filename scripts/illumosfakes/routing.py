"""``route``, ``netstat -r`` and ``ifconfig -a``."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network
from typing import Final

from illumosfakes.machine import (
    EADDRNOTAVAIL,
    EEXIST,
    ENETUNREACH,
    EPERM,
    ESRCH,
    WORDS,
    Machine,
    Table,
    network,
)

USAGE: Final = (
    "usage: route [ -fnpqv ] [ -R <root-dir> ] cmd [[ -<qualifers> ] args ]\n"  # codespell:ignore
)

_ORDER: Final = (
    "UP",
    "GATEWAY",
    "HOST",
    "REJECT",
    "DYNAMIC",
    "MODIFIED",
    "DONE",
    "STATIC",
    "BLACKHOLE",
    "PRIVATE",
    "PROTO2",
    "PROTO1",
    "SETSRC",
)
"""routeflags of route.c, in the order in which they are printed."""

_SAID: Final = {
    ESRCH: "not in table",
    EEXIST: "entry exists",
    EPERM: "insufficient privileges",
}


def flags(route: Table) -> str:
    """As ``route get`` prints them."""
    return "<" + ",".join(flag for flag in _ORDER if flag in route["flags"]) + ">"


class _Usage(Exception):
    """Exit 1 with these words."""


def route(machine: Machine, argv: list[str]) -> tuple[int, str, str]:
    """Exit code (an errno), standard output and standard error."""
    words = list(argv)
    letters = ""
    while words and words[0].startswith("-"):
        letters += words.pop(0)[1:]
    if not words or not set(letters) <= set("nqv"):
        return 1, "", USAGE
    command, rest = words[0], words[1:]
    if command not in ("add", "delete", "change", "get"):
        return 1, "", f"route: botched keyword: {command}\n{USAGE}"
    try:
        wanted = _arguments(machine, command, rest)
    except _Usage as usage:
        return 1, "", f"{usage}\n"
    if command == "get":
        return _get(machine, wanted)
    code = EPERM
    if machine.held["privileged"]:
        code = {"add": _add, "delete": _delete, "change": _change}[command](machine, wanted)
    _message(machine, command, wanted, code)
    out = err = ""
    if "q" not in letters:
        dest = wanted["dest"]
        shown = dest.partition("/")[0] if "HOST" in wanted["flags"] else dest
        kind = "host" if "HOST" in wanted["flags"] else "net"
        out = f"{command} {kind} {shown}"
        out += f": gateway {wanted['gateway']}" if wanted["gateway"] else ""
        out += f": {_SAID.get(code, WORDS.get(code, 'Error 0'))}\n" if code else "\n"
    if code not in (0, ESRCH, EEXIST, EPERM, ENETUNREACH):
        err = f"writing to routing socket: {WORDS[code]}\n"
    return code, out, err


def _arguments(machine: Machine, command: str, rest: list[str]) -> Table:
    wanted: Table = {"dest": "", "gateway": "", "setsrc": "", "through": "", "flags": []}
    found: list[str] = ["UP", "STATIC"]
    version, words, positional, mask = 4, list(rest), [], None
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            match word[1:]:
                case "inet":
                    version = 4
                case "inet6":
                    version = 6
                case "net" | "host" | "static":
                    pass
                case "reject" | "blackhole" | "proto1" | "proto2":
                    found.append(word[1:].upper())
                case "netmask":
                    mask = _next(words, "netmask")
                case "setsrc":
                    wanted["setsrc"] = _next(words, "setsrc")
                    found.append("SETSRC")
                case "ifp":
                    name = _next(words, "ifp")
                    if name not in machine.interfaces:
                        raise _Usage(f"route: {name}: no such interface")
                    wanted["through"] = name
                case other:
                    raise _Usage(f"route: botched keyword: {other}\n{USAGE}".rstrip())
        else:
            positional.append(word)
    if not positional:
        raise _Usage("route: destination required")
    wanted["dest"] = _destination(positional[0], mask, version)
    if command != "get":
        if len(positional) < 2:
            raise _Usage("route: gateway required for add or delete command")
        if ip_address(positional[1]).version != version:
            raise _Usage(f"route: {positional[1]}: bad address")
        wanted["gateway"] = positional[1]
        found += _leads(positional[1])
    if ip_network(wanted["dest"]).prefixlen == (32 if version == 4 else 128):
        found.append("HOST")
    wanted["flags"] = found
    return wanted


def _leads(gateway: str) -> list[str]:
    """By an address of the loopback it is a route of that interface, and takes nothing anywhere."""
    return ["BLACKHOLE"] if ip_address(gateway).is_loopback else ["GATEWAY"]


def _next(words: list[str], keyword: str) -> str:
    if not words:
        raise _Usage(f"route: argument required following keyword {keyword}")
    return words.pop(0)


def _destination(text: str, mask: str | None, version: int) -> str:
    if text == "default":
        return "0.0.0.0/0" if version == 4 else "::/0"
    try:
        if ip_network(text, strict=False).version != version:
            raise ValueError
        if mask is not None:
            return network(f"{text}/{mask}")
        if "/" in text or version == 6:
            return network(text)
        # Without a length the class of the address decides: a trap.
        first = int(text.split(".", maxsplit=1)[0])
        guess = 8 if first < 128 else 16 if first < 192 else 24
        classful = IPv4Network(f"{text}/{guess}", strict=False)
        return str(classful) if str(classful.network_address) == text else f"{text}/32"
    except ValueError:
        raise _Usage(f"route: {text}: bad address") from None


def _same(machine: Machine, wanted: Table) -> Table | None:
    return next(
        (
            each
            for each in machine.routes
            if (each["dest"], each["gateway"]) == (wanted["dest"], wanted["gateway"])
        ),
        None,
    )


def _add(machine: Machine, wanted: Table) -> int:
    """The same destination by another gateway is a second route, which shares the traffic."""
    if _same(machine, wanted) is not None:
        return EEXIST
    through = machine.on_link(wanted["gateway"])
    if through is None:
        return ENETUNREACH
    if wanted["setsrc"] and not any(
        str(ip_interface(text).ip) == wanted["setsrc"]
        for each in machine.interfaces.values()
        for text in each["addresses"]
    ):
        return EADDRNOTAVAIL
    named = bool(wanted["through"]) or through == "lo0"
    added = {**wanted, "through": wanted["through"] or through, "named": named}
    machine.routes.append(added)
    _mirror(machine, wanted["dest"])
    return 0


def _delete(machine: Machine, wanted: Table) -> int:
    found = _same(machine, wanted)
    if found is None:
        return ESRCH
    machine.routes.remove(found)
    wanted["flags"] = [*found["flags"]]
    _mirror(machine, wanted["dest"])
    return 0


def _change(machine: Machine, wanted: Table) -> int:
    """The first route to that destination leads elsewhere."""
    found = next((each for each in machine.routes if each["dest"] == wanted["dest"]), None)
    if found is None:
        return ESRCH
    if machine.on_link(wanted["gateway"]) is None:
        return ENETUNREACH
    found["gateway"] = wanted["gateway"]
    _mirror(machine, wanted["dest"])
    return 0


def _mirror(machine: Machine, dest: str) -> None:
    """In a network namespace of Linux what was done is done there too, so that packets go where
    the table says. Linux would not take two equal routes: the first that leads somewhere wins."""
    if not machine.held["mirror"]:
        return
    here = [each for each in machine.routes if each["dest"] == dest]
    live = [each for each in here if not {"REJECT", "BLACKHOLE"} & set(each["flags"])]
    family = f"-{ip_network(dest).version}"
    if live:
        how = [dest, "via", live[0]["gateway"], "dev", live[0]["through"]]
        how += ["src", live[0]["setsrc"]] if live[0]["setsrc"] else []
    else:
        how = ["unreachable", dest]
    verb = ["replace", *how] if here else ["del", dest]
    # Two kinds of one key: Linux changes an unreachable into a gateway route in place.
    command = ["ip", family, "route", *verb, "proto", "242"]
    subprocess.run(command, check=True, timeout=10, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def _message(machine: Machine, command: str, wanted: Table, code: int) -> None:
    """What the routing socket tells everybody."""
    title = {
        "add": "RTM_ADD: Add Route",
        "delete": "RTM_DELETE: Delete Route",
        "change": "RTM_CHANGE: Change Metrics or flags",
    }[command]
    shown = ip_network(wanted["dest"])
    machine.tell(
        f"{title}: len 200, pid: {machine.pid}, seq 1, errno {code},"
        f" flags:{flags(wanted).replace('STATIC', 'DONE,STATIC')}\n"
        "locks:  inits: \n"
        "sockaddrs: <DST,GATEWAY,NETMASK>\n"
        f" {shown.network_address} {wanted['gateway']} {shown.netmask}"
    )


def _get(machine: Machine, wanted: Table) -> tuple[int, str, str]:
    asked = ip_network(wanted["dest"])
    exact = [each for each in machine.routes if each["dest"] == wanted["dest"]]
    found = exact[0] if exact else None
    if found is None:
        best = -1
        for each in machine.routes:
            net = ip_network(each["dest"])
            if net.version == asked.version and asked.subnet_of(net) and net.prefixlen > best:  # type: ignore[arg-type]
                best, found = net.prefixlen, each
    if found is None:
        return ESRCH, f" {asked.network_address}: not in table\n", ""
    net = ip_network(found["dest"])
    lines = [
        f"   route to: {asked.network_address}",
        f"destination: {net.network_address}",
        f"       mask: {net.netmask}",
        f"    gateway: {found['gateway']}",
    ]
    lines += [f"     setsrc: {found['setsrc']}"] if found["setsrc"] else []
    lines += [
        f"  interface: {found['through']}",
        f"      flags: {flags({'flags': [*found['flags'], 'DONE']})}",
        " recvpipe  sendpipe  ssthresh    rtt,ms rttvar,ms  hopcount      mtu     expire",
        "       0         0         0         0         0         0      1500         0 ",
    ]
    return 0, "\n".join(lines) + "\n", ""


def netstat(machine: Machine, argv: list[str]) -> tuple[int, str, str]:
    """``-rn``, with ``-v`` the masks, of one family or both."""
    words = list(argv)
    families = [4, 6]
    letters = ""
    while words:
        word = words.pop(0)
        if word == "-f" and words:
            family = words.pop(0)
            if family not in ("inet", "inet6"):
                return 1, "", f"netstat: {family} is an unknown address family\n"
            families = [4 if family == "inet" else 6]
        else:
            letters += word.lstrip("-")
    if "r" not in letters:
        return 1, "", "usage: netstat ...\n"
    return 0, "".join(_table(machine, version, "v" in letters) for version in families), ""


def _table(machine: Machine, version: int, verbose: bool) -> str:
    name = f"IPv{version}"
    if not verbose:
        lines = [
            f"\nRouting Table: {name}",
            "  Destination           Gateway           Flags  Ref     Use     Interface ",
            "-------------------- -------------------- ----- ----- ---------- --------- ",
        ]
    elif version == 4:
        lines = [
            "\nIRE Table: IPv4",
            "  Destination             Mask           Gateway          Device  MTU  Ref Flg  Out "
            " In/Fwd ",
            "-------------------- --------------- -------------------- ------ ----- --- --- -----"
            " ------ ",
        ]
    else:
        lines = [
            "\nIRE Table: IPv6",
            "  Destination/Mask            Gateway                    If    MTU  Ref Flags  Out  "
            " In/Fwd ",
            "--------------------------- --------------------------- ----- ----- --- ----- ------"
            " ------ ",
        ]
    sent = machine.held["sent"]
    for dest, gateway, device, letters in _rows(machine, version):
        net = ip_network(dest)
        shown = "default" if net.prefixlen == 0 else str(net.network_address)
        if not verbose:  # no prefix length: ambiguous
            lines.append(f"{shown:<20} {gateway:<20} {letters:<5}     1          0 {device:<9} ")
        elif version == 4:
            lines.append(  # no blank between letters and number
                f"{shown:<20} {net.netmask!s:<15} {gateway:<20} {device:<6}  1500   1 "
                f"{letters:<4}{sent:>6}      0 "
            )
        else:
            full = "default" if net.prefixlen == 0 else dest
            lines.append(
                f"{full:<27} {gateway:<27} {device:<5}  1500   1 {letters:<5} {sent:>6}      0 "
            )
    return "\n".join(lines) + "\n"


def _rows(machine: Machine, version: int) -> list[tuple[str, str, str, str]]:
    """Destination, gateway, device and letters. A gateway route shows no device unless one was
    named (-ifp); PROTO1 and STATIC show nowhere, and of IPv6 neither do REJECT and BLACKHOLE."""
    rows = []
    for name, interface in machine.interfaces.items():
        for text in interface["addresses"]:
            own = ip_interface(text)
            if own.version == version and interface["up"]:
                host = own.network.prefixlen == own.max_prefixlen or name == "lo0"
                dest = f"{own.ip}/{own.max_prefixlen}" if host else str(own.network)
                rows.append((dest, str(own.ip), name, "UH" if host else "U"))
    for each in machine.routes:
        if ip_network(each["dest"]).version == version:
            letters = "".join(
                letter
                for flag, letter in (
                    ("UP", "U"),
                    ("GATEWAY", "G"),
                    ("HOST", "H"),
                    ("REJECT", "R"),
                    ("BLACKHOLE", "B"),
                    ("SETSRC", "S"),
                )
                if flag in each["flags"] and (version == 4 or letter not in "RB")
            )
            device = each["through"] if each["named"] else ""
            rows.append((each["dest"], each["gateway"], device, letters))
    return rows


def ifconfig(machine: Machine, argv: list[str]) -> tuple[int, str, str]:
    """``-a``; and, for the hands of others, ``NAME up`` and ``NAME down``."""
    if len(argv) == 2 and argv[1] in ("up", "down"):
        machine.link(argv[0], up=argv[1] == "up")
        return 0, "", ""
    if argv != ["-a"]:
        return 1, "", "usage: ifconfig <interface> | -a\n"
    out = ""
    for name, interface in machine.interfaces.items():
        for version, word in ((4, "IPv4"), (6, "IPv6")):
            own = [each for each in map(ip_interface, interface["addresses"])
                   if each.version == version]  # fmt: skip
            up = "UP," if interface["up"] else ""
            for number, address in enumerate(own):
                shown = f"{name}:{number}" if number else name
                kind = "LOOPBACK," if name == "lo0" else "BROADCAST,"
                out += (
                    f"{shown}: flags=1000843<{up}{kind}RUNNING,MULTICAST,{word}> mtu 1500"
                    f" index {interface['index']}\n"
                )
                if version == 4:
                    out += f"\tinet {address.ip} netmask {int(address.netmask):x}"
                    out += f" broadcast {address.network.broadcast_address}\n"
                else:
                    out += f"\tinet6 {address.ip}/{address.network.prefixlen} \n"
    return 0, out, ""
