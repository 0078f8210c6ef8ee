"""Roots, subtrees and evidence digests; what a store holds after a few objects."""

from __future__ import annotations

from typing import Any

from vectorset.rules import (
    accusation,
    announcement,
    boot_public,
    digest,
    encode,
    envelope,
    grant,
    object_hash,
    prefixes,
    public,
    revocation,
    slot_id,
    successor,
)

Slots = dict[bytes, bytes]
EMPTY = bytes(16)


def subtree(slots: Slots, depth: int = 0) -> bytes:
    """Section 5.3, by its definition: the hash of all ``slots``, which agree in ``depth``."""
    if not slots:
        return EMPTY
    if len(slots) <= 16:
        return digest(b"\0", *(slot + slots[slot] for slot in sorted(slots)), size=16)
    return digest(b"\1", *(subtree(part, depth + 1) for part in children(slots, depth)), size=16)


def children(slots: Slots, depth: int) -> list[Slots]:
    return [
        {slot: value for slot, value in slots.items() if slot.hex()[depth] == digit}
        for digit in "0123456789abcdef"
    ]


def _slots(count: int, lead: str = "") -> Slots:
    """``count`` slots of all three kinds, all of which begin with the hex digits ``lead``."""
    made = {}
    for number in range(count):
        name = digest(b"slot", number.to_bytes(4, "big"), size=11).hex()
        slot = bytes.fromhex(lead + name[len(lead) :]) + bytes([1 + number % 3])
        made[slot] = digest(b"object", number.to_bytes(4, "big"), size=16)
    assert len(made) == count
    return made


def make_tree() -> dict[str, Any]:
    sets: list[tuple[str, Slots]] = [
        *((f"{count} slots", _slots(count)) for count in (0, 1, 2, 15, 16, 17, 300)),
        ("17 slots that share 20 digits", _slots(17, "0123456789abcdef0123")),
        ("40 slots below two digits", {**_slots(20, "7"), **_slots(41, "8")}),
    ]
    return {
        "trees": [
            {"why": why, "slots": _hex(slots), "root": subtree(slots).hex()} for why, slots in sets
        ],
        "looks": _looks(_slots(300)),
        "looks_note": "at the tree of 300 slots: the subtree below each path",
    }


def _looks(slots: Slots) -> list[dict[str, Any]]:
    looks = []
    for path in ("", "0", "f", "00", "5a", "000000"):
        below = {slot: value for slot, value in slots.items() if slot.hex().startswith(path)}
        content: Any = _hex(below)
        if len(below) > 16:
            parts = children(below, len(path))
            content = [subtree(part, len(path) + 1).hex() for part in parts]
        looks.append({"path": path, "hash": subtree(below, len(path)).hex(), "content": content})
    return looks


def _hex(slots: Slots) -> dict[str, str]:
    return {slot.hex(): slots[slot].hex() for slot in sorted(slots)}


def _store(held: dict[tuple[str, str], bytes]) -> dict[str, Any]:
    slots = {
        slot_id(kind, public(subject) if subject.isalpha() else bytes([int(subject)])):
            object_hash(raw)
        for (kind, subject), raw in held.items()
    }  # fmt: skip
    return {"slots": _hex(slots), "root": subtree(slots).hex()}


def make_store() -> dict[str, Any]:
    grant_a, grant_a2, grant_b = grant("a", "a"), grant("a", "a2", serial=2), grant("b", "b")
    old, new = announcement("a", 5), announcement("a", 6, nets=["10.1.0.0/24"])
    twin = envelope(
        "announcement",
        "a",
        encode(
            [public("a"), 6, boot_public("c boot"), 0, 7, 0, [], prefixes("10.2.0.0/24"), b"", []]
        ),
    )
    larger = max(new, twin, key=object_hash)
    gone = revocation("a")
    other = announcement("b", 1)
    a, ga, gb = ("announcement", "a"), ("grant", "a"), ("grant", "b")
    s1, s2 = ("successor", "1"), ("successor", "2")
    first = successor(1, "next authority", "second", "second next", 9, ["a", "b"])
    second = successor(2, "second next", "third", "third next", 20, ["b"])
    renewed = grant("a", "a", serial=8, since=1, generation=1, by="second")
    renewed_b = grant("b", "b", serial=8, since=1, generation=1, by="second")
    again = grant("a", "a", serial=12, since=1, generation=1, by="second")
    later = grant("d", "d", serial=12, generation=1, by="second")
    third_b = grant("b", "b", serial=19, since=1, generation=2, by="third")
    gone_b = revocation("b", generation=1, since=1, by="second")
    cases: list[tuple[str, list[bytes], dict[tuple[str, str], bytes]]] = [
        ("nothing", [], {}),
        ("a member", [grant_a, old], {ga: grant_a, a: old}),
        ("the announcement first: it waits", [old, grant_a], {ga: grant_a, a: old}),
        ("an announcement without a grant", [old], {}),
        ("the higher sequence", [grant_a, new, old], {ga: grant_a, a: new}),
        ("the higher serial", [grant_a2, old, grant_a], {ga: grant_a2, a: old}),
        ("equal sequences: the larger hash", [grant_a, new, twin], {ga: grant_a, a: larger}),
        ("the same, the other way round", [grant_a, twin, new], {ga: grant_a, a: larger}),
        ("two members", [grant_b, other, grant_a, new],
         {ga: grant_a, a: new, ("grant", "b"): grant_b, ("announcement", "b"): other}),
        ("revoked", [grant_a, new, gone], {("revocation", "a"): gone}),
        ("revoked first", [gone, grant_a, new], {("revocation", "a"): gone}),
        ("revoked while it waits", [new, gone, grant_a], {("revocation", "a"): gone}),
        ("a later grant does not bring it back", [grant_a, gone, grant_a2, new],
         {("revocation", "a"): gone}),
        ("a succession that waits for b", [grant_a, grant_b, grant("c", "c"), first, renewed],
         {ga: renewed, gb: grant_b, ("grant", "c"): grant("c", "c"), s1: first}),
        ("a succession that has all it names", [grant_a, grant_b, grant("c", "c"), first, renewed,
         renewed_b], {ga: renewed, gb: renewed_b, s1: first}),
        ("whom it took over was granted anew, or revoked, since", [grant_a, old, grant_b, other,
         first, again, gone_b], {ga: again, a: old, ("revocation", "b"): gone_b, s1: first}),
        ("who came after it counts for none of those", [grant_a, grant_b, first, renewed, later],
         {ga: renewed, gb: grant_b, ("grant", "d"): later, s1: first}),
        ("revoked by the authority before", [grant_a, gone, first, renewed, renewed_b],
         {ga: renewed, gb: renewed_b, s1: first}),
        ("what the authority before says later", [first, renewed, renewed_b, gone, grant_a2,
         grant("c", "c")], {ga: renewed, gb: renewed_b, s1: first}),
        ("two successions, of which only the second is whole", [grant_a, grant_b, first, renewed,
         second, third_b], {gb: third_b, s1: first, s2: second}),
    ]  # fmt: skip
    return {
        "stores": [
            {"why": why, "heard": [raw.hex() for raw in heard], **_store(held)}
            for why, heard, held in cases
        ],
        "evidence": [_evidence(count) for count in (0, 1, 8, 12)],
        "evidence_note": "accusations of one target, as heard; the eight smallest hashes stay",
    }


def _evidence(count: int) -> dict[str, Any]:
    heard = [accusation(f"accuser {number}", "a", 5, number % 2) for number in range(count)]
    kept = sorted(object_hash(raw) for raw in heard)[:8]
    value = subtree({each[:11] + b"\1": each for each in kept})[:8]
    return {
        "heard": [raw.hex() for raw in heard],
        "kept": [each.hex() for each in kept],
        "digest": value.hex(),
    }
