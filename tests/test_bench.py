"""``scripts/bench``: the shape of what it says, not how fast anything is."""

from __future__ import annotations

import json
import shutil
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from benchmark.choice import for_each
from benchmark.command import main
from benchmark.comparison.scenarios import SCENARIOS as COMPARED
from benchmark.many import PER_NODE, Supply, shares, zones_for
from benchmark.report import Figure, Report
from benchmark.scenarios import SCENARIOS
from benchmark.systems import SYSTEMS, System
from benchmark.systems.bird import Bird, BirdDaemon
from netlab import Lab

TINY = ["--scenario", "trust", "--runs", "2", "--nodes", "3", "--repeats", "4"]


def test_json_is_all_there_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["scenario"] == "trust"
    assert found["settings"] == {"runs": 2, "nodes": [3], "repeats": 4}
    names = {each["what"] for each in found["figures"]}
    for each in found["figures"]:
        assert len(each["values"]) == 2
        assert 0 < each["min"] <= each["median"] <= each["max"]
        assert each["unit"] in ("us", "s")
        assert (each["floor"] is None) == (each["ratio"] is None)
        assert each["floor"] is None or each["floor"] in names
    for what in ("seal a PROBE", "open a PROBE", "verify an announcement", "6 raw verifies"):
        assert what in names
    assert "bench: run 2 of 2" in told.err


def test_without_json_it_is_a_table_that_a_document_can_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(TINY) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| what | median |")
    assert len({line.count("|") for line in lines}) == 1
    assert any("start from a store of 3 nodes" in line for line in lines)


def test_a_ratio_is_taken_within_each_run() -> None:
    # Of a machine that was twice as slow in the second run the ratio says nothing else.
    report = Report(
        "x",
        (Figure("floor", "us", (1.0, 2.0, 1.0)), Figure("ours", "us", (3.0, 6.0, 4.0), "floor")),
    )
    assert report.ratios(report.figures[1]) == (3.0, 3.0, 4.0)
    found = json.loads(report.as_json())["figures"][1]
    assert found["ratio"] == {"median": 3.0, "min": 3.0, "max": 4.0}
    assert found["median"] == 4.0


def test_the_help_names_every_scenario_and_each_has_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name, compared in COMPARED.items():
        assert f"  {name.ljust(max(map(len, COMPARED)))}  {compared.help}\n" in text
    for name, scenario in SCENARIOS.items():
        assert f"  {name.ljust(max(map(len, SCENARIOS)))}  {scenario.help}\n" in text
        with pytest.raises(SystemExit):
            main(["--scenario", name, "--help"])
        assert "--runs" in capsys.readouterr().out
    for name in SYSTEMS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--scenario"),
        (["--scenario", "nonsense"], "no scenario is called nonsense; there are: cold-start, "),
        (["--scenario", "announce,trust"], "trust goes by itself: --scenario trust"),
        (["--scenario", "announce", "--systems", "quagga"], "no system is called quagga"),
        (["--scenario", "announce", "--nodes", "16,many"], "16,many: numbers, with commas"),
        (["--scenario", "announce", "--nodes", "1"], "1 is not from 2 to 240"),
        (["--scenario", "announce", "--loss", "100"], "100.0 is not from 0 to 99"),
        (["--scenario", "announce", "--runs", "0"], "at least 1"),
        (["--report", "/nonexistent/bench.jsonl"], "No such file or directory"),
        (["--scenario", "trust", "--runs", "0"], "at least 1"),
        (["--scenario", "trust", "--systems", "bird"], "unrecognized arguments"),
        (["--scenario", "repair", "--systems", "quagga"], "no system is called quagga; there are"),
        (["--scenario", "failover", "--kinds", "nap"], "invalid choice: 'nap'"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line_with_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_system_that_does_not_come_back_costs_no_other_its_figures() -> None:
    said: list[str] = []

    def measure(system: System) -> list[Figure]:
        if system.name == "bird":
            raise TimeoutError("not within 120 s: it is there")
        return [Figure(system.name, "s", (1.0,))]

    chosen = [SYSTEMS[name] for name in ("meshd", "bird", "babeld")]
    figures, failed = for_each(chosen, measure, said.append)
    assert [figure.what for figure in figures] == ["meshd", "babeld"]
    assert failed == {"bird": "not within 120 s: it is there"}
    assert said == ["bird is left out: not within 120 s: it is there"]


def test_thousands_of_prefixes_are_shared_out_within_what_a_node_may_and_never_come_again() -> None:
    supply = Supply()
    first, second = supply.take(2500), supply.take(2500)
    assert not set(first) & set(second)
    assert all(net.subnet_of(IPv4Network("10.0.0.0/8")) for net in (*first, *second))
    taken = {zone.prefix4 for zone in Lab(240).zones}
    assert not any(net.supernet(new_prefix=24) in taken for net in (*first, *second))
    given = list(shares(first))
    assert [zone for zone, _ in given] == [2, 3, 4]
    assert sorted(net for _, some in given for net in some) == sorted(first)
    assert all(len(some) <= PER_NODE for _, some in given)
    assert zones_for(2500) == 4


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name.startswith("bird")])
def test_birds_know_each_other_by_their_configuration(name: str, tmp_path: Path) -> None:
    system = SYSTEMS[name]
    assert isinstance(system, Bird)
    zones = Lab(3).zones
    daemons = system.daemons(zones, tmp_path)
    for zone, daemon in zip(zones, daemons, strict=True):
        assert isinstance(daemon, BirdDaemon)
        daemon.routes[zone.prefix4] = None
        daemon.write()
        config = tmp_path / f"{zone.router.name}.conf"
        text = config.read_text()
        assert text.count("neighbor") == 2
        assert f"neighbor {zone.uplink4.ip} " not in text
        assert ("protocol bfd" in text) == ("bfd on" in text) == ("BFD" in system.settings())
        if program := shutil.which("bird", path="/usr/sbin:/usr/bin"):
            subprocess.run([program, "-p", "-c", config], check=True)
