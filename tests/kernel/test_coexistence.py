"""Beside Docker, libvirt, Incus and firewalld, with the rules that they make.

One router for each, in one mesh, and one without any, which is the far side. All is tried once, in
the order in which an operator meets it: the program's rules, what `meshd doctor` says of them, its
commands, and the program's restart. The tests look at what was seen.

Behind each router are two hosts: `published`, a container with a published port where the program
has such, and `plain`.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import pytest
from shapes import SHAPES, load, mend

from netlab import EchoServer, Lab, Mesh, Namespace, Zone
from netlab.kernelview import foreign
from netlab.lab import OUTSIDE4, OUTSIDE6
from netlab.traffic import ECHO_PORT, Address

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]
Seen = Address | None
Json = dict[str, Any]

FAR = len(SHAPES) + 1
"""The number of the zone without foreign rules."""

BLOCKING = [shape for shape in SHAPES if shape != "incus"]
"""Those whose rules stop what comes in from the mesh."""
GUARDING = ["docker-28", "docker-29"]
"""Those that keep everything from a published container but its bridge."""
NOT_TRANSLATING_IPV6 = ("docker-20.10", "libvirt-9.0", "firewalld-1.3")
"""As they are when nobody has asked them to."""


@attrs.frozen
class Look:
    """Who sees whom as what; None where nothing arrives."""

    out: tuple[Seen, Seen]
    """The far zone sees `plain`, IPv4 and IPv6."""
    out_published: tuple[Seen, Seen]
    router: tuple[Seen, Seen]
    """The far zone sees the router itself."""
    elsewhere: tuple[Seen, Seen]
    """A host beyond the default gateway sees `plain`."""
    into: tuple[Seen, Seen]
    """`plain` sees the far zone's host."""
    into_published: tuple[Seen, Seen]


@attrs.frozen
class Story:
    """What happened on one router."""

    before: Look
    findings: list[Json]
    touched: bool
    """Whether anything of the kernel differed after the doctor had looked."""
    mended: Look
    content: list[Json]
    """What the doctor says then."""
    restarted: Look


def plain(zone: Zone) -> tuple[Address, Address]:
    return zone.prefix4[3], zone.prefix6[3]


def published(zone: Zone) -> tuple[Address, Address]:
    return zone.private4, zone.private6


Ask = tuple[Namespace, Address | None, Address]
"""From where, as whom if that is chosen, to whom."""


def seen(asked: list[Ask]) -> list[Seen]:
    """What TCP servers take for the address of each who asks, all at once; None where no answer
    comes within two seconds."""
    found: list[Seen] = [None] * len(asked)
    deadline = time.monotonic() + 2
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for number, (place, source, target) in enumerate(asked):
            family = socket.AF_INET if target.version == 4 else socket.AF_INET6
            client = stack.enter_context(place.socket(family, socket.SOCK_STREAM))
            client.setblocking(False)
            if source is not None:
                client.bind((str(source), 0))
            client.connect_ex((str(target), ECHO_PORT))
            selector.register(client, selectors.EVENT_READ, number)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                client = key.fileobj  # type: ignore[assignment]
                with suppress(OSError):
                    found[key.data] = ip_address(client.recv(256).split()[0].decode())
                selector.unregister(client)
    return found


def look(zone: Zone, far: Zone) -> Look:
    hosts, there = zone.private, (far.private4, far.private6)
    directions: list[tuple[Namespace, tuple[Seen, Seen], tuple[Address, Address]]] = [
        (hosts, plain(zone), there),
        (hosts, published(zone), there),
        (zone.router, (None, None), there),
        (hosts, plain(zone), (OUTSIDE4, OUTSIDE6)),
        (far.private, there, plain(zone)),
        (far.private, there, published(zone)),
    ]
    found = seen(
        [
            (place, source, target)
            for place, sources, targets in directions
            for source, target in zip(sources, targets, strict=True)
        ]
    )
    return Look(*zip(found[::2], found[1::2], strict=True))


def doctor(mesh: Mesh, number: int) -> list[Json]:
    done = mesh[number].command("doctor", "--json", check=False)
    findings: list[Json] = json.loads(done.stdout)
    assert done.returncode == any(finding["level"] == "error" for finding in findings)
    return findings


@pytest.fixture(scope="module")
def stories(shared_lab: NewLab, shared_mesh: NewMesh) -> Iterator[dict[str, Story]]:
    lab = shared_lab(FAR, nat=["none"])
    far = lab.zone(FAR)
    with ExitStack() as stack:
        for zone in lab.zones:
            four, six = plain(zone)
            zone.private.configure(
                [
                    f"addr add {four}/24 dev net0",
                    f"addr add {six}/64 dev net0 nodad preferred_lft 0",
                ]
            )
            addresses = (*published(zone), *plain(zone))
            stack.enter_context(EchoServer(zone.private, addresses))
        stack.enter_context(EchoServer(lab.internet, (OUTSIDE4, OUTSIDE6)))
        for zone, shape in zip(lab.zones, SHAPES, strict=False):
            load(zone, shape)
        mesh = shared_mesh(lab)
        mesh.found(FAR)  # firewalld would let nobody in who joins through its router
        for zone in lab.zones[:-1]:
            mesh.join(zone.number)
        mesh.converge()
        with ThreadPoolExecutor(len(SHAPES)) as pool:
            told = pool.map(lambda zone, shape: story(mesh, zone, far, shape), lab.zones, SHAPES)
            yield dict(zip(SHAPES, told, strict=True))


def story(mesh: Mesh, zone: Zone, far: Zone, shape: str) -> Story:
    before = look(zone, far)
    held = everything(zone.router)
    findings = doctor(mesh, zone.number)
    touched = everything(zone.router) != held
    for finding in findings:
        if finding["level"] in ("error", "warning"):
            mend(zone.router, finding["fix"])
    mended = look(zone, far)
    content = doctor(mesh, zone.number)
    load(zone, shape)
    return Story(before, findings, touched, mended, content, look(zone, far))


OLD_TABLES = ("ip_tables_names", "ip6_tables_names")


def everything(router: Namespace) -> str:
    """Routes, rules and settings, without counters, and which old tables of iptables there are."""
    with router.entered():
        tables = [Path("/proc/net", name).read_text("ascii") for name in OLD_TABLES]
    settings = router.run(["sysctl", "-a", "--pattern", r"^net\."], check=False).stdout
    still = [line for line in settings.splitlines() if "_count =" not in line]
    return "\n".join([foreign(router), *tables, *still])


every_shape = pytest.mark.parametrize("shape", SHAPES)


def zone_of(shape: str) -> Zone:
    """Addresses only: a lab that is not up."""
    return Lab(FAR, name="addresses").zone(SHAPES.index(shape) + 1)


@every_shape
def test_an_ordinary_host_is_seen_untranslated_in_the_mesh(
    stories: dict[str, Story], shape: str
) -> None:
    for when in (stories[shape].before, stories[shape].mended):
        assert when.out == plain(zone_of(shape))


@every_shape
def test_the_router_itself_speaks_to_the_mesh_from_its_own_subnet(
    stories: dict[str, Story], shape: str
) -> None:
    zone = zone_of(shape)
    assert stories[shape].before.router == (zone.router4, zone.router6)


@every_shape
def test_what_goes_elsewhere_is_translated_as_before(stories: dict[str, Story], shape: str) -> None:
    zone = zone_of(shape)
    for when in (stories[shape].before, stories[shape].mended, stories[shape].restarted):
        four, six = when.elsewhere
        assert four == zone.uplink4.ip
        # The host out there knows no private subnet: what is not translated gets no answer.
        assert six == (None if shape in NOT_TRANSLATING_IPV6 else zone.uplink6.ip)


@pytest.mark.parametrize("shape", BLOCKING)
def test_rules_that_stop_what_comes_from_the_mesh_are_found_with_their_owner(
    stories: dict[str, Story], shape: str
) -> None:
    story, (far4, far6) = stories[shape], published(Lab(FAR, name="addresses").zone(FAR))
    four, six = story.before.into
    assert four is None
    # None of Docker 20.10 and libvirt 9.0 keeps IPv6 out when nobody has asked for it.
    assert six == (far6 if shape in ("docker-20.10", "libvirt-9.0") else None)
    found = [each for each in story.findings if each["check"] == "forward"]
    assert {each["level"] for each in found} == {"error"}
    owner = shape.partition("-")[0]
    assert all(each["finding"].lower().startswith(f"{owner}: ") for each in found)
    zone = zone_of(shape)
    named = " ".join(each["finding"] for each in found)
    assert str(zone.prefix4) in named
    assert (str(zone.prefix6) in named) == (six is None)
    assert str(far4)


@pytest.mark.parametrize("shape", GUARDING)
def test_a_published_container_that_docker_guards_has_no_connection_until_it_is_mended(
    stories: dict[str, Story], shape: str
) -> None:
    story, zone = stories[shape], zone_of(shape)
    assert story.before.out_published == (None, None)  # the replies are stopped
    guards = [each for each in story.findings if "stops part of" in each["finding"]]
    assert len(guards) == 2
    assert all("replies" in each["why"] for each in guards)
    assert story.mended.out_published == published(zone)
    assert None not in story.mended.into_published


@every_shape
def test_the_doctors_commands_let_the_mesh_in_and_the_doctor_is_content(
    stories: dict[str, Story], shape: str
) -> None:
    far = published(Lab(FAR, name="addresses").zone(FAR))
    assert stories[shape].mended.into == far
    assert [each for each in stories[shape].content if each["level"] in ("error", "warning")] == []


def test_beside_incus_there_is_nothing_to_mend(stories: dict[str, Story]) -> None:
    assert None not in stories["incus"].before.into
    wrong = [each for each in stories["incus"].findings if each["level"] in ("error", "warning")]
    assert wrong == []


def test_a_closed_udp_port_is_found_in_the_zone_of_firewalld_that_closes_it(
    stories: dict[str, Story],
) -> None:
    (found,) = [each for each in stories["firewalld-1.3"].findings if each["check"] == "port"]
    assert found["level"] == "warning"  # this node has spoken to the others first
    assert "firewall-cmd --permanent --zone=external --add-port=6179/udp" in found["fix"]


@every_shape
def test_looking_changes_nothing(stories: dict[str, Story], shape: str) -> None:
    assert not stories[shape].touched


@every_shape
def test_the_exclusion_outlives_the_programs_restart(stories: dict[str, Story], shape: str) -> None:
    assert stories[shape].restarted.out == plain(zone_of(shape))
