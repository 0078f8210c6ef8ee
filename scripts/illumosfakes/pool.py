"""``ippool``: sets that rules of ipf look addresses up in."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Final

from illumosfakes.machine import (
    EBUSY,
    EEXIST,
    EIO,
    ENOENT,
    ESRCH,
    WORDS,
    Machine,
    Table,
    network,
)
from illumosfakes.words import Words, Wrong, is_address

USAGE: Final = "Usage:\tippool\n\t\t\t-a [-dnv] [-m <name>] [-o <role>] -i <ipaddr>[/netmask]\n"
ROLES: Final = ("ipf", "nat", "auth", "count")
_NAME: Final = 16
"""FR_GROUPLEN."""


def parse(text: str) -> tuple[list[Table], Wrong | None]:
    """The tables of a file up to what is wrong in it."""
    words = Words(text, colons=False)
    tables: list[Table] = []
    try:
        while words:
            tables.append(_table(words))
    except Wrong as wrong:
        return tables, wrong
    return tables, None


def _table(words: Words) -> Table:
    if not words.accept("table"):
        words.take()
        # In the real one this word is a variable's name, and "=" must follow.
        raise words.wrong()
    words.expect("role", "=")
    if words.peek() not in ROLES:
        raise words.wrong()
    table: Table = {"role": words.take(), "name": "", "nodes": []}
    words.expect("type", "=")
    if words.peek() not in ("tree", "hash"):
        raise words.wrong()
    table["type"] = words.take()
    if words.accept("number", "="):
        table["name"] = str(words.number())
    elif words.accept("name", "="):
        quoted = words.accept('"')
        table["name"] = words.take()[:_NAME]
        if quoted:
            words.expect('"')
    while table["type"] == "hash" and words.peek() in ("size", "seed"):
        words.take()
        words.expect("=")
        words.number()
    words.expect("{")
    if not words.accept(";"):
        table["nodes"].append(_node(words))
        while words.accept(";") or words.accept(","):
            if words.peek() == "}":
                break
            table["nodes"].append(_node(words))
    words.expect("}", ";")
    return table


def _node(words: Words) -> str:
    inverted = "!" if words.accept("!") else ""
    address = words.peek()
    if not is_address(address):
        raise words.wrong()
    words.take()
    if not words.accept("/"):
        return inverted + network(address)
    mask = words.peek()
    try:
        node = network(f"{address}/{mask}")
    except ValueError:
        raise words.wrong() from None
    words.take()
    return inverted + node


def printed(table: Table, references: int, debug: bool) -> str:
    """As ``ippool -l`` prints it (printpool.c). A name stands where a number would."""
    nodes = list(reversed(table["nodes"]))
    if debug:
        head = f"Name: {table['name']} Role: {table['role']} \tReferences: {references}\tHits: 0\n"
        head += "\tNodes Starting at 0x0\n"
        return head + "".join(f"\t\t{node}\tHits 0\tName {table['name']}\n" for node in nodes)
    listed = "".join(f" {node};" for node in nodes) or ";"
    return (
        f"table role = {table['role']} type = {table['type']} number = {table['name']}\n"
        f"\t{{{listed} }};\n"
    )


def ippool(machine: Machine, argv: list[str], read: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error. The first option says what is done."""
    if not argv:
        return 1, "", USAGE
    first, rest = argv[0], argv[1:]
    match first:
        case "-f":
            return _load(machine, rest, read)
        case "-a" | "-r":
            return _change_node(machine, first, rest)
        case "-A" | "-R":
            return _change_pool(machine, first, rest)
        case "-F":
            return _flush(machine, rest)
        case "-l":
            return _list(machine, rest)
        case "-s":
            return 0, f"Pools:\t{len(machine.pools)}\n", ""
    return 1, "", f"ippool: illegal option -- {first.lstrip('-')[:1]}\n"


def _given(argv: list[str], letters: str) -> dict[str, str] | None:
    """getopt(3C): a letter with a colon takes a word."""
    found: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not re.fullmatch(r"-[A-Za-z].*", word):
            break
        letter, tail = word[1], word[2:]
        if f"{letter}:" in letters:
            if not tail and not words:
                return None
            found[letter] = tail or words.pop(0)
        elif letter in letters:
            found[letter] = ""
            if tail:
                words.insert(0, f"-{tail}")
        else:
            return None
    return found


def _refused(machine: Machine, call: str) -> tuple[int, str, str] | None:
    if not machine.held["privileged"]:
        return 1, "", "open(IPLOOKUP_NAME): Permission denied\n"
    if not machine.held["enabled"]:
        return 255, "", f"{call}: {WORDS[EIO]}\n"
    return None


def _load(machine: Machine, rest: list[str], read: dict[str, str]) -> tuple[int, str, str]:
    if not rest:
        return 1, "", USAGE
    file, options = rest[0], _given(rest[1:], "dnRuv")
    if options is None:
        return 1, "", USAGE
    if file not in read:
        return 255, "", f"fopen({file}): {WORDS[ENOENT]}\n"
    tables, wrong = parse(read[file])
    if "n" not in options and (refused := _refused(machine, "load_pool:SIOCLOOKUPADDTABLE")):
        return refused
    err = ""
    if "n" not in options:
        for table in tables:
            err += _unload(machine, table) if "u" in options else _put(machine, table)
    if wrong is not None:
        return 1, "", f"{err}{wrong}\n"
    return 0, "", err  # whatever the kernel said


def _put(machine: Machine, table: Table) -> str:
    if machine.pool(table["name"]) is not None:
        return f"load_pool:SIOCLOOKUPADDTABLE: {WORDS[EEXIST]}\n"
    err = ""
    kept: list[str] = []
    for node in table["nodes"]:
        if node.lstrip("!") in [each.lstrip("!") for each in kept]:
            err += f"load_poolnode:SIOCLOOKUPADDNODE: {WORDS[EEXIST]}\n"
        else:
            kept.append(node)
    machine.pools.append({**table, "nodes": kept})
    return err


def _unload(machine: Machine, table: Table) -> str:
    pool = machine.pool(table["name"])
    if pool is None:
        return f"remove_pool:SIOCLOOKUPDELTABLE: {WORDS[ESRCH]}\n"
    pool["nodes"] = [node for node in pool["nodes"] if node not in table["nodes"]]
    if machine.references(table["name"]):
        return f"remove_pool:SIOCLOOKUPDELTABLE: {WORDS[EBUSY]}\n"
    machine.pools.remove(pool)
    return ""


def _change_node(machine: Machine, first: str, rest: list[str]) -> tuple[int, str, str]:
    options = _given(rest, "di:m:no:Rv")
    if options is None or options.get("o", "ipf") != "ipf" or "i" not in options:
        return 255, "", ""
    address, slash, length = options["i"].partition("/")
    if slash and "." not in length and not (length.isdecimal() and int(length) <= 32):
        return 255, "", ""
    if "m" not in options:
        return 255, "", "poolname not given with add/remove node\n"
    if ":" in address or not is_address(address):
        # inet_addr(3C) knows IPv4 only, and -1 is not looked at.
        address = "255.255.255.255"
    node = network(f"{address}/{length}" if slash else address)
    if "n" in options:
        return 0, "", ""
    pool = machine.pool(options["m"])
    call = "load_poolnode:SIOCLOOKUPADDNODE" if first == "-a" else "remove_pool:SIOCLOOKUPDELNODE"
    if refused := _refused(machine, call):
        return refused
    if pool is None:
        return 255, "", f"{call}: {WORDS[ESRCH]}\n"
    held = [each.lstrip("!") for each in pool["nodes"]]
    if first == "-a":
        if node in held:
            return 255, "", f"{call}: {WORDS[EEXIST]}\n"
        pool["nodes"].append(node)
    elif node not in held:
        return 255, "", f"{call}: {WORDS[ENOENT]}\n"
    else:
        del pool["nodes"][held.index(node)]
    return 0, "", ""


def _change_pool(machine: Machine, first: str, rest: list[str]) -> tuple[int, str, str]:
    options = _given(rest, "dm:no:RS:t:v")
    if options is None:
        return 1, "", USAGE
    if options.get("o", "ipf") != "ipf":
        return 255, "", f"unknown role '{options['o']}'\n"
    if "m" not in options:
        return 255, "", "poolname not given with add/remove pool\n"
    if "t" not in options:
        return 1, "", ""  # and nothing is done
    if options["t"] not in ("tree", "hash"):
        return 255, "", f"unknown type '{options['t']}'\n"
    name = options["m"][:_NAME]
    table: Table = {"role": "ipf", "type": options["t"], "name": name, "nodes": []}
    if refused := _refused(machine, "load_pool:SIOCLOOKUPADDTABLE"):
        return refused
    if "n" in options:
        return 0, "", ""
    err = _put(machine, table) if first == "-A" else _unload(machine, table)
    return (255 if err else 0), "", err


def _flush(machine: Machine, rest: list[str]) -> tuple[int, str, str]:
    options = _given(rest, "do:t:v")
    if options is None:  # -n among them: there is no rehearsal
        return 1, "", USAGE
    if refused := _refused(machine, "ioctl(SIOCLOOKUPFLUSH)"):
        return refused
    count = 0
    while machine.pools:
        if machine.references(machine.pools[0]["name"]):
            break  # the first one in use ends it
        machine.pools.pop(0)
        count += 1
    return 0, f"{count} object{'' if count == 1 else 's'} flushed\n", ""


def _list(machine: Machine, rest: list[str]) -> tuple[int, str, str]:
    options = _given(rest, "dm:M:N:o:Rt:v")
    if options is None:
        return 1, "", USAGE
    if refused := _refused(machine, "ioctl(SIOCLOOKUPSTAT)"):
        return refused
    shown = [pool for pool in machine.pools if pool["name"] == options.get("m", pool["name"])]
    debug = "d" in options
    listed = (printed(pool, 2 + machine.references(pool["name"]), debug) for pool in shown)
    return 0, "".join(listed), "poollist: opts = 0x1\n" if debug else ""


def contains(pool: Table, address: str) -> bool:
    """The longest node that has ``address`` decides (a radix tree); "!" takes out."""
    best, found = -1, False
    for node in pool["nodes"]:
        net = ip_network(node.lstrip("!"))
        where = ip_network(address)
        if net.version == where.version and where.subnet_of(net) and net.prefixlen > best:  # type: ignore[arg-type]
            best, found = net.prefixlen, not node.startswith("!")
    return found
