"""The join token: everything a new member needs, in one word that can be pasted.

``meshd1-`` and base64url without padding (RFC 4648 section 5) of a body in the protocol's
strict codec, ``[authority, next_hash, [seeds], valid_until, secret, grant, successor]``, and
the first 8 bytes of its SHA-256.  The checksum is for slips of the hand; what it says is
believed only because the authority signed the grant inside, and ``decode`` checks that.

``invite`` makes the new node's key too, and the token holds its secret: whoever reads it can
be that node.  ``grant`` is told a public key that was made on the new host, and ``secret`` is
empty.  ``successor`` is empty while the first authority lasts; afterwards it is the newest
Successor, by which the new node knows the present authority before it has met anybody.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Final

import attrs

from meshd import values
from meshd.errors import UsageError
from meshd.values import Seed
from protocol.codec import MAX_BODY, pack, unpack
from protocol.errors import Rejected
from protocol.identity import KEY_SIZE, Identity, Mesh, check_public_key
from protocol.objects import Grant, Successor

PREFIX: Final = "meshd1-"
_CHECKSUM: Final = 8
"""Bytes. A slip goes unnoticed once in 2^64."""
_MAX_TEXT: Final = 4096
"""Characters looked at: the longest token has 1,383, and lines may be broken in between."""

_ALTERED: Final = "the token is incomplete or altered; copy it again, whole"


@attrs.frozen
class Invitation:
    """What ``invite`` and ``grant`` hand to ``join``."""

    mesh: Mesh
    """With the present authority, if that is not the first."""
    seeds: tuple[Seed, ...]
    valid_until: int
    """Unix seconds after which ``join`` refuses the token; the grant has its own end."""
    identity: Identity | None
    """The new node's key pair, if it was made for it."""
    grant: Grant
    successor: Successor | None = None
    """The newest, which made the authority that signed the grant; None for the first."""

    @property
    def kept(self) -> list[bytes]:
        """What a node keeps of it for life: its grant, and who made the authority behind it."""
        return [self.grant.raw, *([self.successor.raw] if self.successor else [])]

    def encode(self) -> str:
        """The token. Seeds that do not fit are left out, for one that answers is enough.

        ``UsageError`` when not even one fits.
        """
        seeds = [str(seed) for seed in self.seeds]
        while len(body := self._body(seeds)) > MAX_BODY:
            if len(seeds) <= 1:
                raise UsageError("the grant is too long for a token; use fewer --allow or --at")
            seeds.pop()
        data = body + hashlib.sha256(body).digest()[:_CHECKSUM]
        return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    def _body(self, seeds: Iterable[str]) -> bytes:
        return pack(
            [
                self.mesh.authority,
                self.mesh.next_hash,
                list(seeds),
                self.valid_until,
                self.identity.secret if self.identity else b"",
                self.grant.raw,
                self.successor.raw if self.successor else b"",
            ]
        )


def decode(text: str, now: float) -> Invitation:
    """The invitation in a token at ``now`` (unix seconds), or ``UsageError``.

    Line breaks and blanks within it do not matter. The grant is genuine, and for the key that
    the token holds, if it holds one.
    """
    fields = _fields(text)
    try:
        invitation = _build(fields)
    except Rejected as rejected:
        # The checksum held, so this is no slip: somebody made it so, or a newer meshd did.
        raise UsageError(
            f"the token is not valid ({rejected.reason}); ask for another with `meshd invite`"
        ) from None
    grant = invitation.grant
    ends = {"token": invitation.valid_until, "grant in the token": grant.until}
    for what, end in ends.items():
        if end < now and (end or what == "token"):
            raise UsageError(
                f"the {what} ended on {values.moment(end)} and this host's clock says"
                f" {values.moment(int(now))}; ask for another: meshd invite {grant.name}"
            )
    return invitation


def _fields(text: str) -> list[object]:
    token = "".join(text[:_MAX_TEXT].split())
    if not token.startswith(PREFIX):
        raise UsageError(f"this is no token: it does not start with {PREFIX}; copy it again, whole")
    try:
        encoded = token.removeprefix(PREFIX).encode("ascii")
        data = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise UsageError(_ALTERED) from None
    body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    # Compared as text too: the last character has bits that decoding ignores.
    again = base64.urlsafe_b64encode(data).rstrip(b"=")
    if again != encoded or hashlib.sha256(body).digest()[:_CHECKSUM] != checksum:
        raise UsageError(_ALTERED)
    try:
        return unpack(body)
    except Rejected:
        raise UsageError(_ALTERED) from None


def _build(fields: list[object]) -> Invitation:
    match fields:
        case [
            bytes(authority),
            bytes(next_hash),
            list(seeds),
            int(until),
            bytes(secret),
            bytes(raw),
            bytes(made),
        ]:
            pass
        case _:
            raise Rejected("it is of another version")
    if len(secret) not in (0, KEY_SIZE) or len(next_hash) != hashlib.sha256().digest_size:
        raise Rejected("a key in it has the wrong length")
    mesh = Mesh(check_public_key(authority), next_hash)
    grant = Grant.decode(raw)
    successor = Successor.decode(made) if made else None
    if successor is not None:
        # Trusted as the first authority's key is: the token comes from who is to be trusted.
        mesh = mesh.succeeded_by(successor.made)
        if not successor.verify(mesh):
            raise Rejected("its authority is not one that this mesh has made")
    if grant.generation != mesh.generation or not grant.verify(mesh):
        raise Rejected("its grant is not signed by its authority")
    identity = Identity.from_secret(secret) if secret else None
    if identity is not None and grant.node != identity.public:
        raise Rejected("its grant is for another key")
    try:
        found = tuple(values.seed(seed) for seed in seeds if isinstance(seed, str))
    except UsageError:
        raise Rejected("a seed in it is no host") from None
    if len(found) != len(seeds):
        raise Rejected("a seed in it is no text")
    return Invitation(mesh, found, until, identity, grant, successor)
