"""Foreign masquerade rules, in the shapes in which other programs put them on a router.

What an operator's host already has when meshd arrives. meshd must neither touch nor trust them;
`random` is the hardest: it has no source match, so it rewrites the ports of the router's own
traffic too.
"""

from __future__ import annotations

import shutil
from ipaddress import IPv4Network, IPv6Network

from netlab.namespace import Namespace

KINDS = ("docker", "incus", "random", "iptables")
"""What zones get in turn when nobody chose."""

CHOICES = (*KINDS, "none")


def masquerade(
    router: Namespace, kind: str, prefix4: IPv4Network, prefix6: IPv6Network, inside: str
) -> None:
    """Translate what leaves `router` from the prefixes behind its interface `inside`.

    kind: one of CHOICES. Raises CommandError where the kernel or a program refuses.
    """
    if kind == "iptables":
        for command, prefix in (("iptables", prefix4), ("ip6tables", prefix6)):
            # Docker's classic rule, through the nftables variant that Debian has as its default.
            program = shutil.which(f"{command}-nft-restore") or f"{command}-restore"
            rules = f"*nat\n-A POSTROUTING -s {prefix} ! -o {inside} -j MASQUERADE\nCOMMIT\n"
            router.run([program], stdin=rules)
    elif kind != "none":
        router.run(["nft", "-f", "-"], stdin=_SHAPES[kind](prefix4, prefix6, inside))


def _docker(prefix4: IPv4Network, prefix6: IPv6Network, inside: str) -> str:
    return "".join(
        f"""\
table {family} docker-bridges {{
    chain nat-postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != "{inside}" {family} saddr {prefix} counter masquerade comment "MASQUERADE"
    }}
}}
"""
        for family, prefix in (("ip", prefix4), ("ip6", prefix6))
    )


def _incus(prefix4: IPv4Network, prefix6: IPv6Network, inside: str) -> str:
    return f"""\
table inet incus {{
    chain pstrt.{inside} {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {prefix4} ip daddr != {prefix4} masquerade
        ip6 saddr {prefix6} ip6 daddr != {prefix6} masquerade
    }}
}}
"""


def _random(prefix4: IPv4Network, prefix6: IPv6Network, inside: str) -> str:
    return f"""\
table inet uplink {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != {{ "lo", "{inside}" }} masquerade random,fully-random
    }}
}}
"""


_SHAPES = {"docker": _docker, "incus": _incus, "random": _random}
