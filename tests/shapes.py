"""The rules that other programs make on a router, in a zone of a lab.

`tests/kernel/shapes` has them as the programs list them, each with the program's version, for the
first zone of a lab: its subnets behind lan0, its uplink net0. Loading a shape again is what the
program does when it restarts: its tables are made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from netlab import Namespace, Zone

HERE = Path(__file__).parent / "kernel/shapes"

SHAPES = (
    "docker-20.10",
    "docker-28",
    "docker-29",
    "libvirt-9.0",
    "libvirt-nftables",
    "incus",
    "firewalld-1.3",
)

PROGRAMS = {
    ".nft": ["nft", "-f", "-"],
    ".iptables": ["iptables-nft-restore"],
    ".ip6tables": ["ip6tables-nft-restore"],
}


def load(zone: Zone, shape: str) -> None:
    """Put a shape into the kernel of a zone's router, in the place of what it had of it."""
    for path in sorted(HERE.glob(f"{shape}.*")):
        text = path.read_text(encoding="ascii")
        text = text.replace("10.1.", f"10.{zone.number}.")
        text = text.replace("fd00:6179:1:", f"fd00:6179:{zone.number:x}:")
        if path.suffix == ".nft":
            tables = re.findall(r"^table (\S+ \S+) {", text, re.MULTILINE)
            text = "".join(f"table {each} {{}}\ndelete table {each}\n" for each in tables) + text
        zone.router.run(PROGRAMS[path.suffix], stdin=text)


def mend(router: Namespace, lines: str) -> None:
    """Run what `meshd doctor` printed, in a shell on the router, as root would."""
    if lines.startswith("firewall-cmd "):
        router.run(["nft", "-f", "-"], stdin=firewalld(lines.splitlines()))
    else:
        router.run(["sh", "-ec", lines])


def firewalld(commands: Iterable[str]) -> str:
    """What firewalld 1.3.3 adds to its table for the commands that `meshd doctor` prints.

    Written down from the program itself, which was given them in a network namespace of its own;
    its empty chains are left out. ValueError for any other command: nobody has seen what it does.
    """
    policy, rules = "filter_FWD_policy_meshd", []
    for command in commands:
        if match := re.fullmatch(_RICH_RULE, command):
            family = {"4": "ip", "6": "ip6"}[match[1]]
            rules.append(
                f"add rule inet firewalld {policy}_allow"
                f" {family} daddr {match[3]} {family} saddr {match[2]} accept"
            )
        elif match := re.fullmatch(_ADD_PORT, command):
            rules.append(
                f"add rule inet firewalld filter_IN_{match[1]}_allow udp dport {match[2]} accept"
            )
        elif command not in _QUIET:
            raise ValueError(f"not among the commands that firewalld was given: {command}")
    lines = [
        f"add chain inet firewalld {policy}",
        f"add chain inet firewalld {policy}_allow",
        f"flush chain inet firewalld {policy}",
        f"add rule inet firewalld {policy} jump {policy}_allow",
        f"insert rule inet firewalld filter_FORWARD_POLICIES_pre jump {policy}",
        *rules,
    ]
    return "\n".join(lines)


_CALL = "firewall-cmd --permanent --policy=meshd"
_RICH_RULE = (
    rf"{_CALL} --add-rich-rule='rule family=ipv([46]) source address=(\S+)"
    r" destination address=(\S+) accept'"
)
_ADD_PORT = r"firewall-cmd --permanent --zone=(\w+) --add-port=(\d+)/udp"
_QUIET = (
    "firewall-cmd --permanent --info-policy=meshd >/dev/null 2>&1 ||"
    " firewall-cmd --permanent --new-policy=meshd",
    f"{_CALL} --add-ingress-zone=ANY",
    f"{_CALL} --add-egress-zone=ANY",
    "firewall-cmd --reload",
)
