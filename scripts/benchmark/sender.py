"""Datagrams to one host by the ten thousand a second, from as many sources as one likes.

A program of its own, so that it has an interpreter of its own: `flood` starts it in the
attacker's namespace.  Whole Ethernet frames are made beforehand and handed to a packet socket
(packet(7)), which asks for neither the source's address nor a checksum: a frame costs a system
call and little more.  It prints what it did as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from protocol.frames import HELLO, MAX_DATAGRAM, SEALED, VERSION, Hello
from protocol.identity import SIGNATURE_SIZE, Identity, Mesh
from protocol.objects import Announcement, Grant

KINDS: Final = ("random", "signatures")

ETHERTYPE_IP: Final = b"\x08\x00"
SOURCE_PORT: Final = 40_000
"""One port a source: each new pair is an entry in the receiver's connection tracking, whose
table of 262,144 is not what is measured here."""

VARIETY: Final = 4096
"""Frames made beforehand, sent again and again where repeating them makes no difference."""

STRANGERS: Final = 1000
"""Node keys that forgeries are said to be of, so that a limit for each key stops none of them."""

STEP_S: Final = 0.001
"""Between two bursts: far below what a receive buffer of 208 KiB holds at any rate asked for."""


def garbage(rng: random.Random, mesh_id: bytes) -> Iterator[bytes]:
    """Without end: noise; noise behind the head of a sealed datagram; noise in a HELLO of ours."""
    hello = struct.pack("!BB16sBHH", VERSION, HELLO, mesh_id, 0, 200, 200)
    while True:
        yield rng.randbytes(rng.randrange(MAX_DATAGRAM + 1))
        yield bytes([VERSION, SEALED]) + rng.randbytes(rng.randrange(80, 200))
        yield hello + rng.randbytes(400)


def forgeries(rng: random.Random, mesh: Mesh, known: Grant) -> Iterator[bytes]:
    """Without end and all different: HELLOs that ask, right in everything but their signatures.

    Every other one carries the grant of a member, which shows in the clear, beside an
    announcement that this member never made; the others a grant that nobody gave, to one of
    ``STRANGERS`` keys.
    """
    strangers = [Identity.generate(rng.randbytes) for _ in range(STRANGERS)]
    model = strangers[0]
    invented = Grant.sign(model, mesh, node=model.public, name="x", serial=1, allow=known.allow)
    templates = []
    for grant in (known, invented):
        announcement = Announcement.draft(
            grant.node,
            sequence=2**62,
            boot_key=rng.randbytes(31) + b"\x11",
            endpoints=(),
            prefixes=(),
        )
        hello = Hello(mesh.id, True, grant, announcement).encode()
        forged = (announcement,) if grant is known else (grant, announcement)
        templates.append((hello, [hello.index(each.raw) + 1 for each in forged]))
    while True:
        for stranger in strangers:
            for hello, signatures in templates:
                data = bytearray(hello.replace(model.public, stranger.public))
                for at in signatures:
                    data[at : at + SIGNATURE_SIZE] = rng.randbytes(SIGNATURE_SIZE)
                yield bytes(data)


def frame(
    data: bytes, source: IPv4Address, target: IPv4Address, port: int, far: bytes, near: bytes
) -> bytes:
    """``data`` in UDP (without a checksum, RFC 768), IPv4 and Ethernet."""
    udp = struct.pack("!HHHH", SOURCE_PORT, port, 8 + len(data), 0)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0, source.packed, target.packed
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    return far + near + ETHERTYPE_IP + head + udp + data


def send(options: argparse.Namespace) -> dict[str, float]:
    """Send at an even rate for as long as asked; what was sent, in how long."""
    rng = random.Random(options.seed)
    authority, next_hash = map(bytes.fromhex, options.mesh.split(":"))
    mesh = Mesh(authority, next_hash)
    sources = list(options.sources.hosts())
    if options.kind == "random":
        made = garbage(rng, mesh.id)
        wanted = VARIETY
    else:  # a signature that was refused once is not checked again
        made = forgeries(rng, mesh, Grant.decode(bytes.fromhex(options.grant)))
        wanted = round(options.rate * options.seconds)
    frames = [
        frame(next(made), sources[number % len(sources)], options.target, options.port,
              options.far, options.near)
        for number in range(wanted)
    ]  # fmt: skip
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((options.device, 0))
        put = out.send
        print("ready", flush=True)
        sys.stdin.readline()
        sent = 0
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < options.seconds:
            due = min(int(passed * options.rate), sent + 256)
            for number in range(sent, due):
                put(frames[number % wanted])
            sent = due
            time.sleep(STEP_S)
    return {"sent": sent, "seconds": passed}


def main() -> None:
    """The command line that `flood` writes; nobody types it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", required=True)
    parser.add_argument("--near", type=bytes.fromhex, required=True)
    parser.add_argument("--far", type=bytes.fromhex, required=True)
    parser.add_argument("--sources", type=IPv4Network, required=True)
    parser.add_argument("--target", type=IPv4Address, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mesh", required=True)
    parser.add_argument("--grant", required=True)
    print(json.dumps(send(parser.parse_args())), flush=True)


if __name__ == "__main__":
    main()
