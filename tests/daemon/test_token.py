"""The join token: whole, genuine and in time, or one clear line."""

from __future__ import annotations

import base64
import hashlib
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import values
from meshd.errors import UsageError
from meshd.invitation import PREFIX, Invitation, decode
from protocol.codec import pack
from protocol.identity import Authority, Identity, Mesh, key_hash
from protocol.objects import Grant, Successor

NOW = 1_800_000_000
RANDOM = Random(20)
AUTHORITY, FOLLOWING, NODE, OTHER = (Identity.generate(RANDOM.randbytes) for _ in range(4))
MESH = Mesh.founded_by(AUTHORITY.public, FOLLOWING.public)


def granted(node: Identity = NODE, *, by: Identity = AUTHORITY, until: int = 0) -> Grant:
    allow = [values.prefix("10.0.0.0/8")]
    return Grant.sign(by, MESH, node=node.public, name="b", serial=7, allow=allow, until=until)


INVITATION = Invitation(
    MESH, (values.seed("192.0.2.1"), values.seed("a.example:7000")), NOW + 3600, NODE, granted()
)
TOKEN = INVITATION.encode()


def told(token: str, now: float = NOW) -> str:
    with pytest.raises(UsageError) as caught:
        decode(token, now)
    assert str(caught.value).isprintable()
    return str(caught.value)


def forged(*fields: object) -> str:
    body = pack(list(fields))
    data = body + hashlib.sha256(body).digest()[:8]
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_token_holds_what_it_was_made_of() -> None:
    found = decode(TOKEN, NOW)
    assert found == INVITATION
    assert found.identity is not None
    assert found.identity.secret == NODE.secret
    assert found.seeds == INVITATION.seeds


def test_blanks_and_line_breaks_do_not_matter() -> None:
    broken = "\r\n".join(TOKEN[at : at + 60] for at in range(0, len(TOKEN), 60))
    assert decode(f"  {broken}\n", NOW) == INVITATION


def test_every_altered_character_is_noticed() -> None:
    for at, old in enumerate(TOKEN):
        for new in "Aa-_?é"[: 6 if at < 20 or at > len(TOKEN) - 4 else 2]:
            if new != old:
                message = told(TOKEN[:at] + new + TOKEN[at + 1 :])
                assert "copy it again, whole" in message


@pytest.mark.parametrize("seed", ["a", "aa", "aaa"])  # For all three lengths that base64 pads.
def test_the_unused_bits_of_the_last_character_count_too(seed: str) -> None:
    token = attrs.evolve(INVITATION, seeds=(values.seed(seed),)).encode()
    for new in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if new != token[-1]:
            assert "copy it again, whole" in told(token[:-1] + new)


def test_every_shortened_token_is_noticed() -> None:
    for length in range(len(TOKEN)):
        assert "copy it again, whole" in told(TOKEN[:length])


def test_a_token_is_refused_after_its_time() -> None:
    assert decode(TOKEN, NOW + 3600)
    message = told(TOKEN, NOW + 3601)
    assert "the token ended on 2027-01-15 09:00 UTC" in message
    assert "ask for another: meshd invite b" in message


def test_a_token_whose_grant_has_ended_is_refused() -> None:
    ended = attrs.evolve(INVITATION, grant=granted(until=NOW - 1))
    assert "the grant in the token ended" in told(ended.encode())


def test_a_grant_for_another_key_is_refused() -> None:
    assert "for another key" in told(attrs.evolve(INVITATION, grant=granted(OTHER)).encode())


def test_a_grant_by_another_key_is_refused() -> None:
    message = told(attrs.evolve(INVITATION, grant=granted(by=OTHER)).encode())
    assert "not signed by its authority" in message


def test_a_grant_of_another_mesh_is_refused() -> None:
    another = Mesh.founded_by(AUTHORITY.public, OTHER.public)
    assert "not signed" in told(attrs.evolve(INVITATION, mesh=another).encode())


GOOD = [MESH.authority, MESH.next_hash, ["a:1"], NOW + 1, NODE.secret, granted().raw, b""]


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, bytes(32), "small order"),
        (0, b"", "wrong length"),
        (1, b"x", "wrong length"),
        (2, "a:1", "another version"),
        (2, [b"a:1"], "a seed in it is no text"),
        (2, ["a:0"], "a seed in it is no host"),
        (3, b"", "another version"),
        (4, b"x", "wrong length"),
        (5, b"", "cut short"),
        (6, b"x", "cut short"),
        (6, "", "another version"),
    ],
)
def test_a_forged_field_is_refused_in_one_line(at: int, value: object, said: str) -> None:
    assert decode(forged(*GOOD), NOW)
    assert said in told(forged(*GOOD[:at], value, *GOOD[at + 1 :]))


def test_a_token_need_not_hold_a_key() -> None:
    keyless = attrs.evolve(INVITATION, identity=None)
    found = decode(keyless.encode(), NOW)
    assert (found, found.identity) == (keyless, None)
    assert len(keyless.encode()) < len(TOKEN)
    # For whom its grant is, `join` looks at: it knows the key of its host.
    other = attrs.evolve(keyless, grant=granted(OTHER))
    assert decode(other.encode(), NOW).grant.node == OTHER.public
    assert "not signed by its authority" in told(
        attrs.evolve(keyless, grant=granted(by=OTHER)).encode()
    )
    ended = attrs.evolve(keyless, valid_until=NOW - 1)
    assert "the token ended on" in told(ended.encode())


NEW, AFTER = (Identity.generate(RANDOM.randbytes) for _ in range(2))


def succeeded(generation: int = 1, by: Identity = FOLLOWING) -> Invitation:
    """An invitation by the authority of a later generation."""
    made = Authority(generation, NEW.public, key_hash(AFTER.public))
    mesh = MESH.succeeded_by(made)
    successor = Successor.sign(by, MESH, made=made, serial=5, members=[NODE.public])
    grant = Grant.sign(
        NEW, mesh, node=NODE.public, name="b", serial=7, generation=generation,
        allow=[values.prefix("10.0.0.0/8")],
    )  # fmt: skip
    return attrs.evolve(INVITATION, mesh=mesh, grant=grant, successor=successor)


@pytest.mark.parametrize(("generation", "by"), [(1, FOLLOWING), (2, OTHER), (64, OTHER)])
def test_a_token_of_a_later_authority_brings_what_made_it(generation: int, by: Identity) -> None:
    invitation = succeeded(generation, by)
    found = decode(invitation.encode(), NOW)
    assert found == invitation
    assert found.mesh.newest.key == NEW.public
    assert found.mesh.id == MESH.id
    assert found.kept == [invitation.grant.raw, found.successor.raw if found.successor else b""]
    assert len(found.seeds) == 2


def test_an_authority_that_the_first_did_not_commit_to_is_refused() -> None:
    said = "its authority is not one that this mesh has made"
    assert said in told(succeeded(1, OTHER).encode())
    made = succeeded(2)
    assert made.successor is not None
    raw = bytearray(made.successor.raw)
    raw[9] ^= 1
    forged = attrs.evolve(made, successor=Successor.decode(bytes(raw)))
    assert said in told(forged.encode())


def test_the_grant_must_be_by_the_authority_that_the_token_names() -> None:
    for wrong in (
        attrs.evolve(succeeded(), grant=granted()),
        attrs.evolve(succeeded(), successor=None),
        attrs.evolve(INVITATION, successor=succeeded().successor),
        attrs.evolve(succeeded(2, OTHER), grant=succeeded().grant),
    ):
        assert "its grant is not signed by its authority" in told(wrong.encode())


def test_every_altered_character_of_the_longer_tokens_is_noticed() -> None:
    for token in (attrs.evolve(INVITATION, identity=None).encode(), succeeded().encode()):
        for at, old in enumerate(token):
            new = "A" if old != "A" else "B"
            assert "copy it again, whole" in told(token[:at] + new + token[at + 1 :])


def test_fields_too_many_or_few_are_another_version() -> None:
    assert "another version" in told(forged(*GOOD, 1))
    assert "another version" in told(forged(*GOOD[:-1]))


def test_seeds_that_do_not_fit_are_left_out_from_the_end() -> None:
    seeds = tuple(values.seed(f"{'x' * 60}.{at}.example") for at in range(40))
    found = decode(attrs.evolve(INVITATION, seeds=seeds).encode(), NOW)
    assert 3 < len(found.seeds) < 40
    assert found.seeds == seeds[: len(found.seeds)]


def test_the_secret_is_in_no_repr() -> None:
    shown = repr(INVITATION)
    assert NODE.secret.hex() not in shown
    assert repr(NODE.secret) not in shown


@given(
    st.one_of(
        st.text(),
        st.text().map(PREFIX.__add__),
        st.recursive(
            st.integers(0, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40),
            lambda inner: st.lists(inner, max_size=8),
        ).map(lambda fields: forged(*(fields if isinstance(fields, list) else [fields]))),
    )
)
def test_any_text_is_a_token_or_one_line(text: str) -> None:
    told(text)
