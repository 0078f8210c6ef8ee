"""The package passes the vectors, which are made from SPEC.md without it."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

import vectorset
from protocol import codec, frames, messages, objects
from protocol.address import (
    Endpoint,
    pack_endpoint,
    pack_prefixes,
    unpack_endpoint,
    unpack_prefixes,
)
from protocol.errors import Rejected
from protocol.evidence import Evidence
from protocol.frames import Stale
from protocol.identity import BootKey, Identity, Mesh, check_boot_key, check_public_key
from protocol.merkle import Tree
from protocol.messages import Agree, Branches, Later, Message, Objects, Pull, Slots, Vouch, shown
from protocol.objects import Accusation, Announcement, Grant, Record, Revocation, Successor
from protocol.session import Ends, Session, key_id
from protocol.shards import Shard, join
from protocol.store import Outcome, Store, slot_id, slot_of
from protocol.tunnel import hardware_address, link_local, network_identifier

KINDS = {kind.DOMAIN: kind.KIND for kind in (Grant, Revocation, Announcement)}


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((vectorset.DIRECTORY / name).read_text("ascii"))
    return content


def cases(name: str, section: str) -> list[Any]:
    """The cases of one section, each named by what it is about."""
    return [
        pytest.param(case, id=f"{number}-{case.get('why') or case.get('message', '')}")
        for number, case in enumerate(load(name)[section])
    ]


def octets(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_committed_vectors_are_what_the_generator_makes() -> None:
    present = {path.name: path.read_text("ascii") for path in vectorset.DIRECTORY.glob("*.json")}
    assert present == vectorset.files()


# Keys.


@pytest.mark.parametrize("case", cases("keys.json", "signing_keys"))
def test_a_secret_has_this_public_key(case: dict[str, str]) -> None:
    assert Identity.from_secret(octets(case["secret"])).public == octets(case["public"])
    assert check_public_key(octets(case["public"])) == octets(case["public"])


@pytest.mark.parametrize("case", cases("keys.json", "signing_keys_refused"))
def test_such_a_signing_key_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        check_public_key(octets(case["key"]))
    assert refused.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("keys.json", "boot_keys"))
def test_a_boot_secret_has_this_public_key(case: dict[str, str]) -> None:
    private = X25519PrivateKey.from_private_bytes(octets(case["secret"]))
    assert private.public_key().public_bytes_raw() == check_boot_key(octets(case["public"]))


@pytest.mark.parametrize("case", cases("keys.json", "boot_keys_refused"))
def test_such_a_boot_key_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        check_boot_key(octets(case["key"]))
    assert refused.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("keys.json", "mesh_ids"))
def test_a_mesh_has_this_id(case: dict[str, str]) -> None:
    assert Mesh(octets(case["authority"]), octets(case["next_hash"])).id == octets(case["mesh_id"])


@pytest.mark.parametrize("case", cases("keys.json", "key_ids"))
def test_a_boot_key_has_this_id(case: dict[str, str]) -> None:
    named = key_id(octets(case["mesh_id"]), octets(case["node"]), octets(case["boot_key"]))
    assert named == octets(case["key_id"])


@pytest.mark.parametrize("case", cases("keys.json", "slot_ids"))
def test_a_slot_has_this_id(case: dict[str, str]) -> None:
    assert slot_id(KINDS[case["kind"]], octets(case["node"])) == octets(case["slot"])


@pytest.mark.parametrize("case", cases("keys.json", "successor_slot_ids"))
def test_a_successors_slot_has_this_id(case: dict[str, Any]) -> None:
    generation = bytes([case["generation"]])
    assert slot_id(Successor.KIND, generation) == octets(case["slot"])


@pytest.mark.parametrize("case", cases("keys.json", "network_identifiers"))
def test_a_mesh_has_this_network_identifier(case: dict[str, Any]) -> None:
    assert network_identifier(octets(case["mesh_id"])) == case["vni"]


@pytest.mark.parametrize("case", cases("keys.json", "hardware_addresses"))
def test_a_node_has_this_hardware_address(case: dict[str, str]) -> None:
    found = hardware_address(octets(case["node"]))
    assert found.hex(":") == case["hardware"]
    assert str(link_local(found)) == case["link_local"]


# Bodies, prefixes, endpoints.


def tagged(value: Any) -> Any:
    if isinstance(value, list):
        return [tagged(each) for each in value]
    ((kind, content),) = value.items()
    return int(content) if kind == "uint" else octets(content) if kind == "bin" else content


@pytest.mark.parametrize("case", cases("codec.json", "accepted"))
def test_a_body_has_one_value_and_the_value_one_body(case: dict[str, Any]) -> None:
    body = octets(case["body"])
    assert codec.unpack(body) == tagged(case["value"])
    assert codec.pack(tagged(case["value"])) == body


@pytest.mark.parametrize("case", cases("codec.json", "refused"))
def test_such_a_body_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        codec.unpack(octets(case["body"]))
    assert refused.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("addresses.json", "prefixes"))
def test_a_set_of_prefixes_has_one_encoding(case: dict[str, Any]) -> None:
    found = unpack_prefixes(octets(case["packed"]), case["family"])
    assert [str(prefix) for prefix in found] == case["prefixes"]
    assert pack_prefixes(reversed(found), case["family"]) == octets(case["packed"])


@pytest.mark.parametrize("case", cases("addresses.json", "prefixes_refused"))
def test_such_prefixes_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as refused:
        unpack_prefixes(octets(case["packed"]), case["family"])
    assert refused.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("addresses.json", "endpoints"))
def test_an_endpoint_has_one_encoding(case: dict[str, Any]) -> None:
    found = unpack_endpoint(octets(case["packed"]))
    assert found == Endpoint(case["host"], case["port"])
    assert pack_endpoint(found) == octets(case["packed"])


@pytest.mark.parametrize("case", cases("addresses.json", "endpoints_refused"))
def test_such_an_endpoint_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        unpack_endpoint(octets(case["packed"]))
    assert refused.value.reason == case["reason"]


# Objects.

MESH = Mesh.founded_by(
    octets(load("objects.json")["authority"]), octets(load("objects.json")["next_hash_of"])
)


@pytest.mark.parametrize("case", cases("objects.json", "accepted"))
def test_an_object_is_decoded_and_its_signature_verifies(case: dict[str, Any]) -> None:
    found = objects.decode(octets(case["raw"]))
    assert case["kind"] == found.DOMAIN
    assert found.hash == octets(case["hash"])
    assert found.verify(MESH)
    assert fields_of(found) == case["fields"]


def fields_of(found: Record | Accusation) -> list[Any]:
    match found:
        case Grant():
            packed = [
                pack_prefixes(nets, family).hex()
                for nets in (found.allow, found.at)
                for family in (4, 6)
            ]
            said = [found.node.hex(), str(found.generation), str(found.since)]
            first = [*said, found.name, str(found.serial)]
            return [*first, *packed, str(found.limit), str(found.until)]
        case Revocation():
            return [found.node.hex(), str(found.generation), str(found.since)]
        case Successor():
            keys = [each.hex() for each in (found.key, found.authority, found.next_hash)]
            named = [str(found.serial), str(found.count), found.members.hex()]
            return [str(found.generation), *keys, *named]
        case Announcement():
            first = [found.node.hex(), str(found.sequence), found.boot_key.hex()]
            where = [pack_endpoint(each).hex() for each in found.endpoints]
            packed = [pack_prefixes(found.prefixes, family).hex() for family in (4, 6)]
            shards = [each.hex() for each in found.shards]
            state = [str(each) for each in (found.state, found.preference, found.tunnel)]
            return [*first, *state, where, *packed, shards]
        case Accusation():
            keys = [found.accuser.hex(), found.target.hex()]
            return [*keys, str(found.sequence), str(int(found.refused))]


@pytest.mark.parametrize("case", cases("objects.json", "refused"))
def test_such_an_object_is_refused(case: dict[str, str]) -> None:
    raw = octets(case["raw"])
    if case["reason"] == "signature":
        assert not objects.decode(raw).verify(MESH)
        return
    with pytest.raises(Rejected) as refused:
        objects.decode(raw)
    assert refused.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("shards.json", "accepted"))
def test_a_shard_is_decoded_and_has_this_hash(case: dict[str, Any]) -> None:
    found = Shard.decode(octets(case["raw"]))
    assert found.hash == octets(case["hash"])
    assert [str(prefix) for prefix in found.prefixes] == case["prefixes"]


@pytest.mark.parametrize("case", cases("shards.json", "refused"))
def test_such_a_shard_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        Shard.decode(octets(case["raw"]))
    assert refused.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("shards.json", "sets"))
def test_shards_are_joined_to_this_set(case: dict[str, Any]) -> None:
    found = join(Shard.decode(octets(raw)) for raw in case["shards"])
    assert [str(prefix) for prefix in found] == case["prefixes"]


@pytest.mark.parametrize("case", cases("shards.json", "sets_refused"))
def test_such_shards_are_no_set(case: dict[str, Any]) -> None:
    pieces = [Shard.decode(octets(raw)) for raw in case["shards"]]
    with pytest.raises(Rejected) as refused:
        join(pieces)
    assert refused.value.reason == case["reason"]


# Datagrams.


@pytest.mark.parametrize("case", cases("frames.json", "hello"))
def test_a_hello_is_read_and_written(case: dict[str, Any]) -> None:
    datagram = octets(case["datagram"])
    assert frames.frame_type(datagram) == frames.HELLO
    hello = frames.decode_hello(datagram, MESH.id)
    assert hello.asks is case["asks"]
    assert hello.generation == case["generation"]
    assert hello.grant.raw == octets(case["grant"])
    assert hello.announcement.raw == octets(case["announcement"])
    assert hello.encode() == datagram


@pytest.mark.parametrize("case", cases("frames.json", "stale"))
def test_a_stale_is_read_and_written(case: dict[str, str]) -> None:
    datagram = octets(case["datagram"])
    stale = Stale(octets(case["recipient"]), int(case["counter"]))
    assert frames.frame_type(datagram) == frames.STALE
    assert frames.decode_stale(datagram) == stale
    assert stale.encode() == datagram


@pytest.mark.parametrize("case", cases("frames.json", "notice"))
def test_a_notice_is_read_and_written(case: dict[str, str]) -> None:
    datagram = octets(case["datagram"])
    assert frames.frame_type(datagram) == frames.NOTICE
    notice = frames.decode_notice(datagram, MESH.id)
    assert notice.word.raw == octets(case["word"])
    assert notice.encode() == datagram


@pytest.mark.parametrize("case", cases("frames.json", "refused"))
def test_such_a_datagram_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        read(octets(case["datagram"]))
    assert refused.value.reason == case["reason"]


def read(datagram: bytes) -> None:
    kind = frames.frame_type(datagram)
    if kind == frames.HELLO:
        frames.decode_hello(datagram, MESH.id)
    elif kind == frames.SEALED:
        frames.decode_sealed(datagram)
    elif kind == frames.STALE:
        frames.decode_stale(datagram)
    elif kind == frames.NOTICE:
        frames.decode_notice(datagram, MESH.id)
    else:
        raise Rejected("frame of unknown type")


def sessions(now: float) -> dict[str, Session]:
    vectors = load("session.json")
    ends = {end["name"]: end for end in vectors["ends"]}

    def session(name: str, peer: str) -> Session:
        private = X25519PrivateKey.from_private_bytes(octets(ends[name]["boot_secret"]))
        boot_key = BootKey(octets(ends[name]["boot_key"]), private)
        other = ends[peer]
        mesh_id, node = octets(vectors["mesh_id"]), octets(ends[name]["node"])
        theirs = octets(other["node"]), octets(other["boot_key"])
        return Session(Ends(mesh_id, node, boot_key, *theirs), now)

    return {"a": session("a", "b"), "b": session("b", "a")}


def test_two_boot_keys_make_these_datagrams() -> None:
    ends = sessions(1000.0)
    vectors = load("session.json")
    secret = X25519PrivateKey.from_private_bytes(octets(vectors["ends"][0]["boot_secret"]))
    peer = X25519PublicKey.from_public_bytes(octets(vectors["ends"][1]["boot_key"]))
    assert secret.exchange(peer) == octets(vectors["shared_secret"])
    for case in vectors["sent"]:
        sender, receiver = (ends["a"], ends["b"]) if case["from"] == "a" else (ends["b"], ends["a"])
        datagram = sender.seal(octets(case["body"]))
        assert datagram == octets(case["datagram"])
        head = frames.decode_sealed(datagram)
        assert head.counter == int(case["counter"])
        assert (head.sender, head.recipient) == (sender.key_id, receiver.key_id)
        assert receiver.open(datagram, head.counter) == octets(case["body"])


def test_a_session_takes_and_refuses_these_datagrams_in_this_order() -> None:
    receiver = sessions(1000.0)["b"]
    for case in load("session.json")["received_by_b"]:
        datagram = octets(case["datagram"])
        reason = None
        try:
            receiver.open(datagram, frames.decode_sealed(datagram).counter)
        except Rejected as refused:
            reason = refused.reason
        assert reason == case["reason"], case["why"]


# Messages.


@pytest.mark.parametrize("case", cases("messages.json", "accepted"))
def test_a_message_is_read_and_written(case: dict[str, Any]) -> None:
    body = octets(case["body"])
    message = messages.decode(body)
    assert messages.encode(message) == body
    name = {"AskEvidence": "EVIDENCE"}.get(type(message).__name__, type(message).__name__.upper())
    assert name == case["message"]
    assert {key: plain(message, key) for key in case["fields"]} == case["fields"]


def plain(message: Message, field: str) -> Any:
    value = getattr(message, field)
    if field == "observed":
        return pack_endpoint(value).hex() if value else ""
    if field == "objects":
        return [each.raw.hex() for each in value]
    if field == "items" and isinstance(message, Objects):
        return [[each.raw.hex(), vouched] for each, vouched in message.items]
    if field == "bits" and isinstance(message, Vouch | Agree):
        return value.to_bytes((message.size + 7) // 8, "little").hex()
    if field == "content":
        if value is None:
            return "same"
        if isinstance(value, Later):
            return "later"
        if isinstance(value, Slots):
            return {slot.hex(): held.hex() for slot, held in value.slots.items()}
        return [child.hex() for child in value.children]
    return hexed(value)


def hexed(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [hexed(each) for each in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("case", cases("messages.json", "refused"))
def test_such_a_message_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        messages.decode(octets(case["body"]))
    assert refused.value.reason == case["reason"]


def test_the_vectors_have_every_message() -> None:
    types = {octets(case["body"])[0] for case in load("messages.json")["accepted"]}
    assert types == set(range(1, 19))
    assert (
        max(
            len(message.slots)
            for case in load("messages.json")["accepted"]
            if isinstance(message := messages.decode(octets(case["body"])), Pull)
        )
        == messages.MAX_PULL
    )


# The store.


@pytest.mark.parametrize("case", cases("tree.json", "trees"))
def test_a_set_of_slots_has_this_root(case: dict[str, Any]) -> None:
    assert tree_of(case["slots"]).root == octets(case["root"])


@pytest.mark.parametrize("case", cases("tree.json", "looks"))
def test_a_walk_sees_this_below_a_path(case: dict[str, Any]) -> None:
    tree = tree_of(load("tree.json")["trees"][6]["slots"])
    below = tree.look(bytes(int(digit, 16) for digit in case["path"]))
    assert below.hash == octets(case["hash"])
    content = shown(below)
    if isinstance(content, Branches):
        assert [child.hex() for child in content.children] == case["content"]
    else:
        assert {slot.hex(): held.hex() for slot, held in content.slots.items()} == case["content"]


@attrs.frozen
class Named:
    """An object of which the tree asks nothing but its hash."""

    hash: bytes


def tree_of(slots: dict[str, str]) -> Tree[Any]:
    tree: Tree[Any] = Tree()
    for slot, value in slots.items():
        tree = tree.put(octets(slot), Named(octets(value)))
    return tree


@pytest.mark.parametrize("case", cases("store.json", "stores"))
def test_who_has_heard_these_objects_holds_these_slots(case: dict[str, Any]) -> None:
    store, mesh = Store(), MESH
    for raw in case["heard"]:
        found = objects.decode(octets(raw))
        assert not isinstance(found, Accusation)
        assert found.verify(mesh)
        if isinstance(found, Successor):
            mesh = mesh.succeeded_by(found.made)
        if store.merge(found) is Outcome.NEW and (waiting := store.take_waiting(found.subject)):
            store.merge(waiting)
    held = {slot_of(each).hex(): each.hash.hex() for each in store}
    assert held == case["slots"]
    assert store.root == octets(case["root"])


@pytest.mark.parametrize("case", cases("store.json", "evidence"))
def test_who_has_heard_these_accusations_has_this_digest(case: dict[str, Any]) -> None:
    evidence = Evidence()
    for raw in case["heard"]:
        found = objects.decode(octets(raw))
        assert isinstance(found, Accusation)
        evidence.add(found)
    assert sorted(each.hash.hex() for each in evidence) == case["kept"]
    assert evidence.digest == octets(case["digest"])
