"""The config file: TOML into one frozen value, with errors that can be acted on.

Every option has its line in ``_OPTIONS``, ``_IMPORT`` or ``_NODE``, and its default in ``Config``,
``Filters`` or ``Filter``; what is not there is an error, for a misspelt option that is silently
ignored is found in an outage.  Every error names file, key, value and remedy.  Looks at nothing but
the text it is given.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import attrs

from meshd import values
from meshd.errors import UsageError
from meshd.files import failure
from meshd.kernel.illumos.options import DEFAULT, Options
from meshd.local.check import Check
from meshd.policy.filters import IN_ALL, OPEN, PER_NODE, Filter, Filters
from meshd.values import Announced, Seed
from protocol.address import MAX_PORT, Endpoint, Prefix
from protocol.errors import Rejected
from protocol.identity import Mesh, check_public_key
from protocol.objects import check_name

POOL: Final = tuple(
    values.prefix(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
"""Private addresses: RFC 1918 section 3 and RFC 4193 section 3.1."""

MAX_METRIC: Final = 2**32 - 3
"""The guard stands at 2^32 - 2, and every mesh route must be better than its guard."""

NAT: Final = ("auto", "exempt", "masquerade", "set", "ippool", "ipnat", "off")
NETWORK: Final = ("lan", "wan")
KERNEL: Final = ("auto", "linux", "illumos", "memory")
TUNNEL: Final = ("off", "vxlan")
WHEN: Final = ("cross-subnet", "always")

_Reader = Callable[[object, dict[str, Any]], object]
"""What TOML gives and what was read before it, to what ``Config`` holds."""


@attrs.frozen
class Config:
    """What the operator decided. Every field is an option; the comments are in meshd.toml."""

    authority: bytes = b""
    next_authority_hash: bytes = b""
    seeds: tuple[Seed, ...] = ()
    announce: tuple[Announced, ...] = ()
    advertise: tuple[Endpoint, ...] = ()
    """At most one a family; empty: found out, and followed when it changes."""
    port: int = values.PORT
    preference: int = 100
    """Announced: of equal origins of a prefix those with the highest carry it."""
    multipath: bool = False
    """All origins of a prefix that are as good as the best carry it."""
    pool: tuple[Prefix, ...] = POOL
    """What a grant without ``--allow`` may announce."""
    metric: int = 142
    nat: str = "auto"
    """How the table in the kernel is shaped (``kernel.shape``). auto: exempt on Linux. ippool,
    ipnat: the two forms of illumos, where auto is the first."""
    kernel: str = "auto"
    """auto: this system's; memory: no kernel is touched."""
    illumos: Options = DEFAULT
    """The table ``[illumos]``."""
    tunnel: str = "off"
    """off; vxlan: members that are not on a link of ours are reached through one device."""
    when: str = "cross-subnet"
    """cross-subnet: only those; always: all members. Without a tunnel it means nothing."""
    tunnel_port: int = values.TUNNEL_PORT
    network: str = "lan"
    """lan, wan: whose timers the protocol keeps, ``Tuning.lan`` or ``Tuning.wan``."""
    imports: Filters = OPEN
    """The table ``[import]``."""
    health: Mapping[Announced, Check] = attrs.field(factory=dict)
    """The tables ``[health."..."]``, by what they gate."""

    @property
    def vxlan_port(self) -> int:
        """Where our tunnel listens; 0: there is none."""
        return self.tunnel_port if self.tunnel != "off" else 0

    def with_additions(
        self, seeds: Iterable[Seed], announce: Iterable[Announced], advertise: Iterable[Endpoint]
    ) -> Config:
        """With what the command line adds. ``UsageError`` if it contradicts the file."""
        return attrs.evolve(
            self,
            seeds=tuple(dict.fromkeys((*self.seeds, *seeds))),
            announce=values.distinct_announced((*self.announce, *announce)),
            advertise=values.one_a_family((*self.advertise, *advertise)),
        )


def load(path: Path) -> Config:
    """The config in file ``path``, or ``UsageError``."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist; make a node with `meshd init` or `meshd join` first"
        ) from None
    except OSError as error:
        raise failure(path, "read", error) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; save it as plain text") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> Config:
    """The config in ``text``; ``where`` is the file's name for messages."""
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{where}: not TOML: nested too deep; mend that line") from None
    except ValueError as error:  # Also for a date in the year 0.
        reason = values.shown(str(error))
        raise UsageError(f"{where}: not TOML: {reason}; mend that line") from None
    found = _read(table, _OPTIONS, where)
    if "import" in table:
        found["imports"] = _filters(table["import"], where)
    if "illumos" in table:
        inside = _table(table["illumos"], where, "illumos")
        found["illumos"] = Options(**_read(inside, _ILLUMOS, where, "illumos."))
    if "health" in table:
        found["health"] = _checks(table["health"], where)
    config = Config(**found)
    if config.tunnel != "off" and config.tunnel_port == config.port:
        raise UsageError(
            f"{where}: tunnel_port = {config.port}: meshd itself listens there; give another"
        )
    return config


def _read(
    table: dict[str, Any], options: Mapping[str, _Reader | None], where: str, path: str = ""
) -> dict[str, Any]:
    """What the options of ``table`` say; ``path`` is its name and a dot. A reader of None is the
    caller's to read."""
    for key in table:
        if key not in options:
            near = get_close_matches(key, options, 1)
            hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(options)}"
            if path and key in _OPTIONS:
                hint = f"{key} must stand above the first [table]"
            raise UsageError(f"{where}: unknown option {path}{values.shown(key)}; {hint}")
    found: dict[str, Any] = {}
    # In the order of the options: port is known before the addresses that default to it.
    for key, read in options.items():
        if read is not None and key in table:
            try:
                found[key] = read(table[key], found)
            except UsageError as error:
                shown = values.shown(_toml(table[key]))
                raise UsageError(f"{where}: {path}{key} = {shown}: {error}") from None
    return found


def _filters(value: object, where: str) -> Filters:
    """The table ``[import]``, and under it one for each node that it names."""
    found = _read(_table(value, where, "import"), _IMPORT, where, "import.")
    named = _table(value, where, "import").get("node", {})
    nodes = {}
    for label, table in _table(named, where, "import.node").items():
        made = _filter(label, table, where)
        if made != Filter():
            nodes[label] = made
    limit, per_node = found.pop("limit", IN_ALL), found.pop("limit_per_node", PER_NODE)
    return Filters(Filter(limit=per_node, **found), limit, nodes)


def _filter(label: str, table: object, where: str) -> Filter:
    name = f"import.node.{values.shown(label)}"
    try:
        re.fullmatch(r"[0-9a-f]{64}", label) or check_name(label)
    except Rejected:
        raise UsageError(
            f"{where}: {name}: neither a member's name nor its id of 64 hex digits;"
            " `meshd peers --json` shows both"
        ) from None
    table = _table(table, where, name)
    for key, inner in table.items():
        if isinstance(inner, dict):
            dotted = values.shown(f"{label}.{key}")
            raise UsageError(
                f"{where}: {name}.{values.shown(key)} is a table; a name with dots stands in"
                f' quotes: [import.node."{dotted}"]'
            )
    return Filter(**_read(table, _NODE, where, f"{name}."))


def _checks(value: object, where: str) -> dict[Announced, Check]:
    """The tables under ``[health]``, each named by what it gates."""
    found: dict[Announced, Check] = {}
    for label, inner in _table(value, where, "health").items():
        name = f"health.{_toml(label) if label.isascii() else values.shown(label)}"
        try:
            target = values.announced(label)
        except UsageError as error:
            told = f'{error}; write [health."10.1.0.0/24"] or [health."interface:br0"]'
            raise UsageError(f"{where}: {name}: {told}") from None
        given = _read(_table(inner, where, name), _HEALTH, where, f"{name}.")
        if sum(key in given for key in ("command", "tcp", "interface")) != 1:
            told = "give exactly one of command, tcp and interface"
            raise UsageError(f"{where}: {name}: {told}")
        found[target] = Check(**given)
    return found


def _table(value: object, where: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        shown = values.shown(_toml(value))
        raise UsageError(f"{where}: {name} = {shown}: not a table; write [{name}] over its options")
    return value


def mesh(config: Config, where: Path) -> Mesh:
    """The mesh that the config in file ``where`` belongs to, or ``UsageError`` if to none."""
    for key in ("authority", "next_authority_hash"):
        if not getattr(config, key):
            raise UsageError(f"{where}: {key} is not set; run `meshd init` or `meshd join`")
    return Mesh(config.authority, config.next_authority_hash)


def render(config: Config, made_by: str) -> str:
    """A short file for a new node: what was decided, and where the rest can be read."""
    pool = (
        "\n"
        "# What members may announce when their grant does not say otherwise.\n"
        f"pool = {_toml([str(prefix) for prefix in config.pool])}\n"
        if made_by == "init"  # Elsewhere nobody is invited.
        else ""
    )
    return (
        f"# Written by `meshd {made_by}`. After a change: `meshd reload`.\n"
        "# Options not listed here have their default; the package's config/meshd.toml shows all.\n"
        "\n"
        "# The mesh: its authority's public key, and SHA-256 of the key that may succeed it.\n"
        f"authority = {_toml(config.authority.hex())}\n"
        f"next_authority_hash = {_toml(config.next_authority_hash.hex())}\n"
        "\n"
        "# Where to find other members: HOST[:PORT].\n"
        f"seeds = {_toml([str(seed) for seed in config.seeds])}\n"
        "\n"
        "# The subnets behind this router.\n"
        f"announce = {_toml([str(prefix) for prefix in config.announce])}\n"
        "\n"
        "# This router's own address for the mesh, one a family; empty: found out.\n"
        f"advertise = {_toml([str(endpoint) for endpoint in config.advertise])}\n" + pool
    )


def _toml(value: object) -> str:
    """A JSON string, array or number of ASCII is the same in TOML (1.0, "String")."""
    return json.dumps(value, default=str)


# -- readers: what TOML gives, to what Config holds; UsageError says the remedy only ---------


def _hex32(value: object, _found: dict[str, Any]) -> bytes:
    if value == "":
        return b""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise UsageError("not 64 lower-case hex digits; copy it from another member's file")
    return bytes.fromhex(value)


def _authority(value: object, found: dict[str, Any]) -> bytes:
    key = _hex32(value, found)
    try:
        return key and check_public_key(key)
    except Rejected as rejected:
        raise UsageError(f"{rejected.reason}; copy it from another member's file") from None


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError('not a list of strings; write ["..."]')
    return value


def _seeds(value: object, _found: dict[str, Any]) -> tuple[Seed, ...]:
    return tuple(dict.fromkeys(values.seed(text) for text in _texts(value)))


def _prefixes(value: object, _found: dict[str, Any]) -> tuple[Prefix, ...]:
    return values.distinct(values.prefix(text) for text in _texts(value))


def _announced(value: object, _found: dict[str, Any]) -> tuple[Announced, ...]:
    return values.distinct_announced(values.announced(text) for text in _texts(value))


def _command(value: object, _found: dict[str, Any]) -> tuple[str, ...]:
    words = _texts(value)
    if not words or not words[0].startswith("/"):
        raise UsageError('begin with the whole path of a program: ["/usr/local/bin/check", "-q"]')
    if any("\0" in word for word in words):
        raise UsageError("no program can be given a NUL; leave it out")
    return tuple(words)


def _service(value: object, _found: dict[str, Any]) -> Endpoint:
    where = values.advertised(_text(value), 0)
    if where.port == 0:
        raise UsageError("without a port; write ADDR:PORT or [IPv6]:PORT")
    return where


def _interface(value: object, _found: dict[str, Any]) -> str:
    return values.interface(_text(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError('write it in quotes: "..."')
    return value


def _seconds(value: object, _found: dict[str, Any]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= 3600:
        raise UsageError("give seconds, from 0.1 to 3600")
    return float(value)


def _nets(value: object, _found: dict[str, Any]) -> tuple[Prefix, ...]:
    """Prefixes that may overlap: lists of filters come from many hands."""
    return tuple(dict.fromkeys(values.prefix(text) for text in _texts(value)))


def _flag(value: object, _found: dict[str, Any]) -> bool:
    if not isinstance(value, bool):
        raise UsageError("write true or false")
    return value


def _endpoints(value: object, found: dict[str, Any]) -> tuple[Endpoint, ...]:
    port = found.get("port", values.PORT)
    return values.one_a_family(values.advertised(text, port) for text in _texts(value))


def _number(low: int, high: int) -> Callable[[object, dict[str, Any]], int]:
    def read(value: object, _found: dict[str, Any]) -> int:
        if type(value) is not int or not low <= value <= high:
            raise UsageError(f"give a whole number from {low} to {high}")
        return value

    return read


def _choice(choices: tuple[str, ...]) -> Callable[[object, dict[str, Any]], str]:
    def read(value: object, _found: dict[str, Any]) -> str:
        if not isinstance(value, str) or value not in choices:
            raise UsageError(f"choose one of {', '.join(choices)}")
        return value

    return read


def _nat_interface(value: object, _found: dict[str, Any]) -> str:
    # ipnat takes letters, digits, "_" and ".", and a number at the end.
    if not isinstance(value, str) or not re.fullmatch(r"|[A-Za-z][A-Za-z0-9_.]{0,29}[0-9]", value):
        raise UsageError("no interface's name; `ifconfig -a` shows them")
    return value


def _place(value: object, _found: dict[str, Any]) -> str:
    if not isinstance(value, str) or (value and not value.startswith("/")):
        raise UsageError("no absolute path of a directory")
    return value


_OPTIONS: Final[dict[str, _Reader | None]] = {
    "authority": _authority,
    "next_authority_hash": _hex32,
    "seeds": _seeds,
    "announce": _announced,
    "port": _number(1, MAX_PORT),
    "advertise": _endpoints,
    "preference": _number(0, 255),
    "multipath": _flag,
    "pool": _prefixes,
    "metric": _number(1, MAX_METRIC),
    "nat": _choice(NAT),
    "kernel": _choice(KERNEL),
    "illumos": None,
    "tunnel": _choice(TUNNEL),
    "when": _choice(WHEN),
    "tunnel_port": _number(1, MAX_PORT),
    "network": _choice(NETWORK),
    "import": None,
    "health": None,
}

_ILLUMOS: Final[dict[str, _Reader | None]] = {
    "interface": _nat_interface,
    "pool": _number(1, 2**31 - 1),
    "tools": _place,
    "files": _place,
}

_IMPORT: Final[dict[str, _Reader | None]] = {
    "allow": _nets,
    "deny": _nets,
    "limit_per_node": _number(1, PER_NODE),
    "limit": _number(1, IN_ALL),
    "node": None,
}

_NODE: Final[dict[str, _Reader | None]] = {
    "allow": _nets,
    "deny": _nets,
    "limit": _number(1, PER_NODE),
    "refuse": _flag,
}

_HEALTH: Final[dict[str, _Reader | None]] = {
    "command": _command,
    "tcp": _service,
    "interface": _interface,
    "interval": _seconds,
    "timeout": _seconds,
    "rise": _number(1, 100),
    "fall": _number(1, 100),
}
