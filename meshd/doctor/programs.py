"""The only programs that meshd ever starts: those that list packet filter rules.

Each command line stands here word by word, and nothing from a network, a file or a user is ever
part of one.  None of them changes anything; what is listed may be read by root alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

LIST_NFTABLES: Final = ("nft", "-j", "list", "ruleset")
SAVE: Final = {
    ("ip", "iptables"): ("iptables-nft-save",),
    ("ip6", "iptables"): ("ip6tables-nft-save",),
    ("ip", "iptables-legacy"): ("iptables-legacy-save",),
    ("ip6", "iptables-legacy"): ("ip6tables-legacy-save",),
}
"""By family and dialect."""

SUGGESTED: Final = (
    "nft", "iptables", "iptables-nft", "iptables-legacy", "firewall-cmd", "ufw", "nmcli",
)  # fmt: skip
"""Programs that a fix may name, where they are there."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where they lie; a user's PATH often lacks sbin."""
_PATIENCE: Final = 30.0
"""Seconds. 10,000 rules take nft two."""


class Unavailable(Exception):
    """It is not installed, or it failed; in words."""


def listing(command: tuple[str, ...]) -> str:
    """What one of the commands above prints; ``Unavailable`` otherwise."""
    path = shutil.which(command[0], path=_PATH)
    if path is None:
        raise Unavailable(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            (path, *command[1:]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            env={"PATH": _PATH, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Unavailable(f"{command[0]}: {said[0] if said else f'exit {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def installed() -> frozenset[str]:
    """Those of ``SUGGESTED`` that are there."""
    found = {name for name in SUGGESTED if shutil.which(name, path=_PATH)}
    if "iptables" in found and not _is_nft("iptables"):
        found.discard("iptables")
    return frozenset(found)


def _is_nft(name: str) -> bool:
    """Whether the command ``iptables`` is the one that writes nftables, as is usual since 2019."""
    path = shutil.which(name, path=_PATH)
    return path is not None and "legacy" not in os.path.realpath(path)
