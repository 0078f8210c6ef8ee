"""``ipnat``: an ordered list that grows at its end, and a grammar without pools."""

from __future__ import annotations

from typing import Final

from illumosfakes.machine import EEXIST, EIO, ENOENT, ESRCH, WORDS, Machine, Table
from illumosfakes.words import Words, Wrong, prefix4

USAGE: Final = "Usage: ipnat [-CdFhlnrRsv] [-f filename]\n"
PROTOCOLS: Final = ("tcp", "udp", "icmp")
_TAG: Final = 16
"""IPFTAG_LEN."""


def parse(text: str) -> tuple[list[Table], Wrong | None]:
    """The rules of a file up to what is wrong in it: those before are loaded by then."""
    words = Words(text)
    rules: list[Table] = []
    try:
        while words:
            rules.append(_rule(words))
    except Wrong as wrong:
        return rules, wrong
    return rules, None


def _rule(words: Words) -> Table:
    kind = words.take()
    if kind not in ("map", "bimap"):
        # A word that begins no rule can only begin an assignment.
        raise words.wrong()
    rule: Table = {"kind": kind, "not": False, "to": None, "portmap": None, "age": None, "tag": ""}
    rule["interface"] = words.take()
    if words.accept("from"):
        rule["from"] = prefix4(words)
        rule["not"] = words.accept("!")
        words.expect("to")
        rule["to"] = prefix4(words)
    else:
        rule["from"] = prefix4(words)
    words.expect("->")
    rule["onto"] = prefix4(words)
    if words.accept("portmap"):
        rule["portmap"] = _protocols(words) + " " + _ports(words)
    if words.accept("age"):
        first = words.number()
        rule["age"] = f"{first}/{words.number() if words.accept('/') else first}"
    if words.accept("tag"):
        rule["tag"] = words.take()[:_TAG]
    if words and words.peek() not in ("map", "bimap", "no") and words.peek().isalnum():
        # A line break is only white space: what comes may still belong to this rule.
        raise words.wrong("protocol set twice" if rule["portmap"] else "unknown protocol")
    return rule


def _protocols(words: Words) -> str:
    if words.accept("tcp", "/", "udp"):
        return "tcp/udp"
    if words.peek() not in ("tcp", "udp"):
        raise words.wrong()
    return words.take()


def _ports(words: Words) -> str:
    if words.accept("auto"):
        return "auto"
    low = words.number()
    words.expect(":")
    return f"{low}:{words.number()}"


def printed(rule: Table) -> str:
    """As ``ipnat -l`` prints it (printnat.c)."""
    out = f"{rule['kind']} {rule['interface']} "
    if rule["to"] is not None:
        out += f"from {_any(rule['from'])}{' !' if rule['not'] else ''} to {_any(rule['to'])}"
    else:
        out += str(rule["from"])
    out += f" -> {rule['onto']}"
    if rule["portmap"]:
        out += f" portmap {rule['portmap']}"
    if rule["age"]:
        out += f" age {rule['age']}"
    if rule["tag"]:
        out += f" tag {rule['tag']}"
    return out


def _any(prefix: str) -> str:
    return "any" if prefix == "0.0.0.0/0" else prefix


def ipnat(machine: Machine, argv: list[str], read: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error. ``read``: what the files named hold."""
    letters, file = _options(argv)
    if letters is None or not letters:
        return 1, "", USAGE
    dry = "n" in letters
    out = err = ""
    if not dry and not machine.held["privileged"]:
        return 1, "", "ipnat: /dev/ipnat: open: Permission denied\n"
    if not dry and not machine.held["enabled"]:
        return 1, "", f"ioctl(SIOCGNATS): {WORDS[EIO]}\n"
    if "F" in letters:
        out += "0 entries flushed from NAT table\n"
    if "C" in letters:
        out += f"{len(machine.nat)} entries flushed from NAT list\n"
        if not dry:
            machine.nat.clear()
    if file is not None:
        if file not in read:
            return 1, out, f"{file}: {WORDS[ENOENT]}\n"
        rules, wrong = parse(read[file])
        for number, rule in enumerate(rules, 1):
            if "v" in letters:
                out += printed(rule) + "\n"
            if dry:
                continue
            if "r" in letters:
                if rule in machine.nat:
                    machine.nat.remove(rule)
                else:
                    err += f"{number}:ioctl(delete nat rule): {WORDS[ESRCH]}\n"
            elif rule in machine.nat:
                err += f"{number}:ioctl(add/insert nat rule): {WORDS[EEXIST]}\n"
            else:
                machine.nat.append(rule)  # the tail of the list, and of its bucket
        if wrong is not None:
            return 1, out, err + f"{wrong}\n"
    if "l" in letters:
        out += "List of active MAP/Redirect filters:\n"
        out += "".join(printed(rule) + "\n" for rule in machine.nat)
        out += "\nList of active sessions:\n"
    return 0, out, err


def _options(argv: list[str]) -> tuple[str | None, str | None]:
    letters, file = "", None
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            return None, None
        for at, letter in enumerate(word[1:], 1):
            if letter == "f":
                file = word[at + 1 :] or (words.pop(0) if words else None)
                if file is None:
                    return None, None
                letters += "f"
                break
            if letter not in "CFlnrsv":
                return None, None
            letters += letter
    return letters, file
