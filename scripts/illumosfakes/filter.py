"""``ipf`` and ``ipfstat``: as much of the packet filter as a NAT tag needs."""

from __future__ import annotations

from typing import Final

from illumosfakes.machine import EEXIST, EIO, ENOENT, WORDS, Machine, Table
from illumosfakes.words import Words, Wrong, prefix4

_TAG: Final = 16


def parse(text: str, machine: Machine) -> tuple[list[Table], Wrong | None]:
    """The rules of a file up to what is wrong in it. A rule is a line here, not words."""
    rules: list[Table] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = Words("\n" * (number - 1) + line)
        if not words:
            continue
        try:
            rules.append(_rule(words, machine))
            if words:
                raise words.wrong()
        except Wrong as wrong:
            return rules, wrong
    return rules, None


def _rule(words: Words, machine: Machine) -> Table:
    if words.peek() not in ("pass", "block"):
        raise words.wrong()
    rule: Table = {"action": words.take(), "state": False, "tag": "", "proto": "", "on": ""}
    if words.peek() not in ("in", "out"):
        raise words.wrong()
    rule["way"] = words.take()
    rule["quick"] = words.accept("quick")
    if words.accept("on"):
        rule["on"] = words.take()
    if words.accept("proto"):
        rule["proto"] = words.take()
    everything: Table = {"not": False, "net": "0.0.0.0/0", "pool": None, "resolved": False}
    rule["from"], rule["to"] = dict(everything), dict(everything)
    if not words.accept("all"):
        words.expect("from")
        rule["from"] = _object(words, machine)
        words.expect("to")
        rule["to"] = _object(words, machine)
    if words.accept("keep", "state"):
        rule["state"] = True
    if words.accept("set-tag"):
        words.expect("(", "nat", "=")
        rule["tag"] = words.take()[:_TAG]
        words.expect(")")
    return rule


def _object(words: Words, machine: Machine) -> Table:
    inverted = words.accept("!")
    if words.accept("pool", "/"):
        name = str(words.number())  # a name is not accepted
        # Looked up once, now: a pool that comes later is not found by this rule.
        return {
            "not": inverted,
            "net": None,
            "pool": name,
            "resolved": machine.pool(name) is not None,
        }
    return {"not": inverted, "net": prefix4(words), "pool": None, "resolved": False}


def printed(rule: Table) -> str:
    """As ``ipfstat -o`` prints it (printfr.c)."""
    out = f"{rule['action']} {rule['way']} {'quick ' if rule['quick'] else ''}"
    out += f"on {rule['on']} " if rule["on"] else ""
    out += f"proto {rule['proto']} " if rule["proto"] else ""
    if all(rule[side]["net"] == "0.0.0.0/0" and not rule[side]["not"] for side in ("from", "to")):
        out += "from any to any" if rule["tag"] else "all"
    else:
        out += f"from {_side(rule['from'])} to {_side(rule['to'])}"
    out += " keep state" if rule["state"] else ""
    return out + (f" set-tag(nat={rule['tag']})" if rule["tag"] else "")


def _side(side: Table) -> str:
    mark = "!" if side["not"] else ""
    if side["pool"] is not None:
        return f"{mark}pool/{side['pool']}"
    return mark + ("any" if side["net"] == "0.0.0.0/0" else str(side["net"]))


def ipf(machine: Machine, argv: list[str], read: dict[str, str]) -> tuple[int, str, str]:
    """-E, -D, -F with a, i or o, -I, -s, -n, -f FILE, in their order."""
    out = err = ""
    target = machine.filters
    dry = False
    if not machine.held["privileged"]:
        return 1, "", "open device: Permission denied\n"
    words = list(argv)
    while words:
        word = words.pop(0)
        letter, tail = word[1:2], word[2:]
        if word.startswith("-") and letter in "EDInsv" and tail:
            words.insert(0, f"-{tail}")
        match letter:
            case "E" | "D":
                machine.held["enabled"] = letter == "E"
            case "I":
                target = machine.inactive
            case "n":
                dry = True
            case "v":
                pass
            case "s":
                machine.held["active"] = 1 - machine.held["active"]
                out += f"Set {1 - machine.held['active']} now inactive\n"
            case "F":
                which = tail or words.pop(0)
                target[:] = [rule for rule in target if which not in ("a", rule["way"][0])]
            case "f":
                file = tail or words.pop(0)
                if file not in read:
                    return 1, out, f"{file}: {WORDS[ENOENT]}\n"
                rules, wrong = parse(read[file], machine)
                for rule in rules:
                    if dry:
                        continue
                    if not machine.held["enabled"]:
                        return 1, out, f"ioctl(add/insert rule): {WORDS[EIO]}\n"
                    if rule in target:
                        err += f"ioctl(add/insert rule): {WORDS[EEXIST]}\n"
                    else:
                        target.append(rule)
                if wrong is not None:
                    return 1, out, f"{err}{wrong}\n"
            case _:
                return 1, out, "usage: ipf [-6AdDEInoPrsvVyzZ] [-l block|pass|nomatch]\n"
    return 0, out, err


def ipfstat(machine: Machine, argv: list[str], _read: dict[str, str]) -> tuple[int, str, str]:
    """-i, -o, -I: the rules of a set, in order."""
    letters = "".join(word.lstrip("-") for word in argv)
    if not machine.held["privileged"]:
        return 1, "", "open(IPSTATE_NAME): Permission denied\n"
    rules = machine.inactive if "I" in letters else machine.filters
    out = err = ""
    for letter, way in (("o", "out"), ("i", "in")):
        if letter in letters:
            chosen = "".join(printed(rule) + "\n" for rule in rules if rule["way"] == way)
            out += chosen
            err += "" if chosen else f"empty list for ipfilter({way})\n"
    return 0, out, err
