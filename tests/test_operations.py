"""docs/operations.md names everything that an operator may meet, and what it says can be typed."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import get_args

import pytest
import shapes

from meshd import usage
from meshd.doctor.checks import examine, filtering
from meshd.doctor.facts import Facts, Hop, Link
from meshd.doctor.iptables import parse
from meshd.doctor.ruleset import Chain, Rule, Ruleset
from meshd.policy import refusal
from meshd.policy.route import RouteState
from protocol.address import Prefix

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def typed(block: str = "") -> list[str]:
    """The commands in all blocks, or in those with that word behind their fence."""
    blocks = re.findall(rf"^```{block or '[a-z-]*'}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks, block
    return re.findall(r"^a# (.*)$", "".join(blocks), re.MULTILINE)


def prescribed(*chains: Chain) -> set[str]:
    """The commands that the doctor prints for rules on a router as in the text."""
    near, far = Prefix.parse("10.1.0.0/24"), Prefix.parse("10.2.0.0/24")
    facts = Facts(
        links={"lan0": Link("lan0", 1500, True, (near.network_address + 1,))},
        routes={far: (Hop(ipaddress.ip_address("192.0.2.2"), "net0"),)},
        local=(near,),
        rules=Ruleset.of(*chains),
        programs=frozenset({"iptables", "nft"}),
    )
    lines = [line for finding in filtering.forward(facts) for line in finding.fix.splitlines()]
    return {line for line in lines if not line.startswith("#")}


def saved(shape: str) -> list[Chain]:
    return parse((shapes.HERE / shape).read_text(encoding="ascii"), "ip", "iptables")


def stopping(table: str, *names: str) -> list[Chain]:
    """Base chains on the hooks of these names that drop everything."""
    rule = Rule((), "drop", "", "drop")
    return [
        Chain("nft", "ip", table, name, (rule,), "prerouting" if "PRE" in name else "forward")
        for name in names
    ]


@pytest.mark.parametrize("word", [*get_args(RouteState), *filter(None, get_args(refusal.Rule))])
def test_each_state_of_a_route_and_each_rule_is_explained(word: str) -> None:
    assert f"`{word}`" in section("What each route state means")


def test_each_check_of_the_doctor_is_explained() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "meshd/doctor/checks").glob("*.py")
    )
    checks = set(re.findall(r'(?:Finding|unchecked)\(\s*"([a-z_]+)"', source))
    assert {finding.check for finding in examine(Facts())} - {"config"} <= checks
    for check in checks - {"config"}:
        assert f"`{check}`" in TEXT.partition("## Beside")[0], check


def test_the_commands_for_other_programs_are_those_that_the_doctor_prints() -> None:
    assert prescribed(*saved("docker-20.10.iptables")) == set(typed("docker"))
    assert prescribed(*saved("docker-28.iptables")) == {*typed("docker"), *typed("docker-guard")}
    assert prescribed(*saved("libvirt-9.0.iptables")) == set(typed("libvirt"))
    bridges = stopping("docker-bridges", "filter-FORWARD", "raw-PREROUTING")
    assert prescribed(*bridges) >= set(typed("docker-nft"))
    assert prescribed(*stopping("libvirt_network", "forward")) >= set(typed("libvirt-nft"))
    # The doctor makes the policy only where there is none yet.
    firewalld = "\n".join(prescribed(*stopping("firewalld", "filter_FORWARD")))
    for line in typed("firewalld"):
        assert line in firewalld or "--add-port" in line


def test_every_command_of_ours_that_is_named_is_one() -> None:
    names = {command.name for command in usage.COMMANDS}
    named = re.findall(r"`meshd ([a-z]+)", TEXT) + [
        line.split()[1] for line in typed() if line.startswith("meshd ")
    ]
    assert len(named) > 20
    assert set(named) <= names


def test_the_files_that_are_named_are_shipped() -> None:
    for path in re.findall(r"config/[a-z_.]+/[a-z0-9.-]+\.conf", TEXT):
        assert (ROOT / path).exists(), path
