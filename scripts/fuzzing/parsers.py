"""Everything that turns octets or text into a value: the value, or the one documented error."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import attrs

from fuzzing.target import Broken, Feed, Target
from fuzzing.world import SHARDS, World, cast, genuine
from meshd import config, invitation, records, values
from meshd.authority import bundle
from meshd.errors import UsageError
from protocol import codec, messages, objects
from protocol.errors import Rejected
from protocol.frames import MAX_BODY
from protocol.identity import Authority, Identity
from protocol.objects import Accusation, Grant, Revocation, Successor
from protocol.shards import Shard, join

_NOW: Final = 1_800_000_000
_CONFIG: Final = Path(__file__).parents[2] / "config" / "meshd.toml"


def _forgetful(take: Feed) -> Callable[[], AbstractContextManager[Feed]]:
    @contextmanager
    def opened() -> Iterator[Feed]:
        yield take

    return opened


def _refused(error: UsageError) -> None:
    """It is for a person at a terminal: one line."""
    if not str(error).isprintable() or not str(error):
        raise Broken(f"not one line: {str(error)!r}")


def _object(data: bytes) -> None:
    try:
        found = objects.decode(data)
    except Rejected:
        return
    if found.raw != data or codec.pack(codec.unpack(found.body)) != found.body:
        raise Broken("an object that has another encoding")
    found.verify(cast().mesh)


def _object_seeds() -> list[bytes]:
    cast_ = cast()
    accused = Accusation.sign(
        cast_.me, cast_.mesh, target=cast_.absent.key, sequence=3, refused=True
    )
    gone = Revocation.sign(cast_.authority, cast_.mesh, node=cast_.absent.key)
    both = [each for one in cast_.everyone for each in (one.grant, one.announcement)]
    return [each.raw for each in (*both, accused, gone)]


def _message(data: bytes) -> None:
    try:
        found = messages.decode(data[:MAX_BODY])
    except Rejected:
        return
    again = messages.encode(found)
    if len(again) > MAX_BODY or messages.decode(again) != found:
        raise Broken(f"a message that is written as another one: {found}")


def _shard(data: bytes) -> None:
    found = []
    for raw in data.split(b"|||"):
        try:
            found.append(Shard.decode(raw))
        except Rejected:
            return
    try:
        prefixes = join(found)
    except Rejected:
        return
    if len(set(prefixes)) != len(prefixes):
        raise Broken("a set with a prefix twice")


def _token(data: bytes) -> None:
    """Text, or behind a NUL a body that gets its checksum and letters here."""
    text = data.decode("utf-8", "surrogateescape")
    if data.startswith(b"\0"):
        body = data[1:]
        checked = body + hashlib.sha256(body).digest()[:8]
        text = invitation.PREFIX + base64.urlsafe_b64encode(checked).decode().rstrip("=")
    try:
        found = invitation.decode(text, _NOW)
    except UsageError as error:
        _refused(error)
        return
    if found.grant.generation != found.mesh.generation or not found.grant.verify(found.mesh):
        raise Broken("a token whose grant is not genuine")
    if found.identity is not None and found.grant.node != found.identity.public:
        raise Broken("a token whose key is another's")


def _tokens() -> list[bytes]:
    rng = random.Random(5)
    seeds = (values.seed("192.0.2.1"), values.seed("a.example:7000"))
    found = []
    for until in (0, _NOW + 9, _NOW - 9):
        node = Identity.generate(rng.randbytes)
        grant = Grant.sign(
            cast().authority, cast().mesh, node=node.public, name="new", serial=50, allow=(),
            until=until,
        )  # fmt: skip
        given = invitation.Invitation(cast().mesh, seeds, _NOW + 99, node, grant)
        for made in (given, attrs.evolve(given, identity=None), _succeeded(given, rng)):
            text = made.encode()
            found.append(text.encode())
            raw = text.removeprefix(invitation.PREFIX).encode()
            found.append(b"\0" + base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))[:-8])
    return found


def _succeeded(given: invitation.Invitation, rng: random.Random) -> invitation.Invitation:
    """The same by an authority that came later: the token brings who made it."""
    new, by = Identity.generate(rng.randbytes), Identity.generate(rng.randbytes)
    made = Authority(2, new.public, bytes(32))
    node = given.grant.node
    successor = Successor.sign(by, given.mesh, made=made, serial=9, members=[node])
    grant = Grant.sign(
        new, given.mesh, node=node, name="new", serial=50, generation=2, allow=(),
        until=given.grant.until,
    )  # fmt: skip
    mesh = given.mesh.succeeded_by(made)
    return attrs.evolve(given, mesh=mesh, grant=grant, successor=successor)


def _bundle(data: bytes) -> None:
    text = data.decode("ascii", "replace")
    try:
        found = bundle.load(text, "FILE")
    except UsageError as error:
        _refused(error)
        return
    if not found or bundle.load(bundle.dump(found), "FILE") != found:
        raise Broken("a bundle that is written as another one")


def _bundles() -> list[bytes]:
    raws = _object_seeds()
    return [bundle.dump(raws, "words").encode(), bundle.dump(raws[:1]).encode()]


def _config(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        found = config.parse(text, "meshd.toml")
    except UsageError as error:
        _refused(error)
        return
    if not 0 < found.port < 65536 or not 0 < found.metric <= config.MAX_METRIC:
        raise Broken(f"a config that no host can follow: {found}")


def _configs() -> list[bytes]:
    # Every option, as its comment shows it and switched on.
    text = _CONFIG.read_text(encoding="utf-8")
    options = [line.lstrip("# ") for line in text.splitlines() if " = " in line]
    whole = config.render(config.Config(authority=cast().authority.public), "fuzz")
    return [text.encode(), whole.encode(), *(option.encode() for option in options)]


def _records(data: bytes) -> None:
    """What damage may make of a file; who can make its checksum fit can read the keys beside it."""
    try:
        found = records.load(data)
    except records.Damaged:
        return
    if sum(map(len, found)) > len(data):
        raise Broken("more came out of a file than was in it")


TARGETS: Final = (
    Target("objects", "signed objects", _forgetful(_object), _object_seeds),
    Target(
        "messages", "what stands inside SEALED", _forgetful(_message),
        lambda: [messages.encode(each) for each in genuine(World())],
    ),
    Target(
        "shards", "prefixes beside an announcement", _forgetful(_shard),
        lambda: [each.raw for each in SHARDS] + [b"|||".join(each.raw for each in SHARDS)],
    ),
    Target("token", "what is pasted into join", _forgetful(_token), _tokens),
    Target("bundle", "what an authority signed elsewhere", _forgetful(_bundle), _bundles),
    Target("config", "the text of meshd.toml", _forgetful(_config), _configs),
    Target(
        "snapshot", "a file of records", _forgetful(_records),
        lambda: [records.dump([each.raw for each in SHARDS]), records.dump([])],
    ),
)  # fmt: skip
