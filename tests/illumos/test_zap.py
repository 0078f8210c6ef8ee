"""``meshd import-zap``: from zap's records to a config, shown before it is written."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import config
from meshd.cli import main
from meshd.kernel.illumos import blocks, nat
from meshd.kernel.illumos.options import Options
from meshd.zap import records, tomledit
from protocol.address import Prefix

SUBNET = Prefix.parse("10.1.0.0/24")
ZAP = "map znic0 10.1.0.0/24 -> 0/32 portmap tcp/udp auto\nmap znic0 10.1.0.0/24 -> 0/32\n"


class Host:
    """The global zone of a host with a router zone r1, as zap leaves it, and our node in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zones = root / "var/zap/zones"
        self.zones.mkdir(parents=True)
        self.node = root / "export/zones/r1/root/var/meshd"
        self.ipf = root / "export/zones/r1/root/etc/ipf"
        self.ipf.mkdir(parents=True)
        self.node.mkdir(parents=True)
        self.config = self.node / "meshd.toml"
        self.record("10.1.0", "r1")
        (self.zones / "zonecfg.r1").write_text(
            "create -t TRIBwhole\nset zonepath=/export/zones/r1\nset ip-type=exclusive\n"
        )
        self.nat(ZAP)

    def record(self, octets: str, zone: str, public: str = "192.0.2.9") -> None:
        lines = ["interface: zrstub0", "gateway: 10.1.0.1", f"zone: {zone}"]
        lines += [f" public-ip:  {public}"] if public else []
        (self.zones / f"rconfig.{octets}").write_text("\n".join(lines) + "\n")

    def nat(self, text: str, ipf: str = "") -> None:
        (self.ipf / "ipnat.conf").write_text(text)
        if ipf:
            (self.ipf / "ipf.conf").write_text(ipf)

    def meshd(self, *words: str) -> int:
        return main(["--dir", str(self.node), "import-zap", "--root", str(self.root), *words])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.config.write_text('# mine\nseeds = ["192.0.2.1"]\nannounce = []  # nothing yet\n')
    return made


def test_a_router_zone_becomes_a_config(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.meshd("--yes") == 0
    said = capsys.readouterr().out
    made = config.load(host.config)
    assert [str(each) for each in made.announce] == ["10.1.0.0/24"]
    assert [str(each.address) for each in made.advertise] == ["192.0.2.9"]
    assert (made.nat, made.illumos) == ("ipnat", Options("znic0"))
    assert [str(seed) for seed in made.seeds] == ["192.0.2.1:6179"]
    assert host.config.read_text().startswith('# mine\nseeds = ["192.0.2.1"]\n')
    for shown in ("router zone r1", "10.1.0.0/24", 'nat = "ipnat"', "znic0", "ipnat -rf -"):
        assert shown in said
    assert host.meshd() == 0
    assert "says all of that already" in capsys.readouterr().out


def test_nothing_is_written_without_a_yes(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    before = host.config.read_text()
    assert host.meshd() == 2
    assert host.config.read_text() == before
    shown = capsys.readouterr()
    assert 'announce = ["10.1.0.0/24"]' in shown.out
    assert "add --yes" in shown.err


def test_the_zones_own_files_are_only_read(host: Host) -> None:
    before = {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()}
    host.meshd("--yes")
    after = {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} == {host.config}


TAGGED = ZAP.replace("auto", "auto tag inet").replace("0/32\n", "0/32 tag inet\n")


@pytest.mark.parametrize(
    ("text", "ipf", "form", "number"),
    [
        (ZAP, "", "ipnat", 13),
        (TAGGED, "pass out quick on znic0 from 10.1.0.0/24 to pool/7\n", "ippool", 7),
        (TAGGED, "", "ippool", 13),
        (ZAP.replace("10.1.0.0/24", "from 10.1.0.0/24 ! to 10.0.0.0/8"), "", "off", 13),
        (ZAP.replace("10.1.0.0/24", "from 10.1.0.0/24 ! to 10.2.0.0/24"), "", "ipnat", 13),
        ("", "", "off", 13),
        (ZAP.replace("10.1.", "10.9."), "", "off", 13),
        ("# " + ZAP.replace("\n", "\n# "), "", "off", 13),
        (
            blocks.joined("", nat.text("znic0", [SUBNET], []), ZAP, "/var/meshd/state"),
            "",
            "ipnat",
            13,
        ),
    ],
)
def test_the_form_fits_what_stands_there(
    host: Host, text: str, ipf: str, form: str, number: int
) -> None:
    host.nat(text, ipf)
    (router,) = records.routers(host.root)
    found = records.form(router)
    assert (found.nat, found.pool) == (form, number)
    assert found.interface == ("" if "no map line" in found.why else "znic0")


def test_what_the_operator_has_to_do_is_said(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.nat(TAGGED)
    host.meshd("--yes")
    said = capsys.readouterr().out
    assert "pass out quick on znic0 from 10.1.0.0/24 to pool/13" in said
    assert "set-tag(nat=inet)" in said


def test_of_several_zones_one_is_named(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.record("172.16", "r2")
    (host.zones / "zonecfg.r2").write_text("set zonepath=/zones/r2\n")
    host.record("10.7", "r1", public="")
    assert host.meshd("--yes") == 2
    assert "--zone: r1 r2" in capsys.readouterr().err
    assert host.meshd("--yes", "--zone", "r3") == 2
    assert "no router zone r3" in capsys.readouterr().err
    assert host.meshd("--yes", "--zone", "r1") == 0
    made = config.load(host.config)
    assert [str(each) for each in made.announce] == ["10.1.0.0/24", "10.7.0.0/16"]


def test_the_global_zone_may_be_the_router(tmp_path: Path) -> None:
    host = Host(tmp_path)
    (host.zones / "rconfig.10.1.0").unlink()
    host.record("10.1.0", "global", public="")
    (tmp_path / "etc/ipf").mkdir(parents=True)
    (tmp_path / "etc/ipf/ipnat.conf").write_text(ZAP)
    (router,) = records.routers(tmp_path)
    assert (router.root, router.public) == (tmp_path, None)
    assert records.form(router).nat == "ipnat"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rconfig.10.1.0.0.0", "zone: r1", "is no subnet"),
        ("rconfig.ten", "zone: r1", "is no subnet"),
        ("rconfig.10.300", "zone: r1", "is no subnet"),
        ("rconfig.10.2.0", "gateway: 10.2.0.1", "names no zone"),
        ("rconfig.10.2.0", "zone: r1\npublic-ip: nowhere", "is no IPv4 address"),
        ("rconfig.10.2.0", "zone: r9", "zonecfg.r9"),
        ("zonecfg.r1", "create", "names no zonepath"),
    ],
)
def test_a_record_that_is_not_understood_is_named(
    host: Host, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    (host.zones / name).write_text(text)
    before = host.config.read_text()
    assert host.meshd("--yes") == 2
    assert said in capsys.readouterr().err
    assert host.config.read_text() == before


def test_without_records_or_without_a_node_the_remedy_is_said(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.config.unlink()
    assert host.meshd("--yes") == 2
    err = capsys.readouterr().err
    assert "join TOKEN --announce 10.1.0.0/24 --advertise 192.0.2.9" in err
    (host.zones / "rconfig.10.1.0").unlink()
    assert host.meshd("--yes") == 2
    assert "in the global zone" in capsys.readouterr().err


# -- setting options in a file that a person has written ------------------------------------------

TEXTS = st.lists(
    st.sampled_from(
        ["# a comment", "", 'nat = "auto"', "port = 7000 # mine", "  metric = 7",
         'announce = [\n  "10.9.0.0/24",\n]']
    ),
    unique=True,
).map("\n".join)  # fmt: skip
TABLES = st.lists(
    st.sampled_from(
        ["[import]\nallow = []", "[illumos]\npool = 3\n# mine", "[import.node.b]\nrefuse = true"]
    ),
    unique=True,
).map("\n".join)


@given(head=TEXTS, tables=TABLES, end=st.sampled_from(["", "\n"]), interface=st.booleans())
def test_an_option_is_set_and_nothing_else_changes(
    head: str, tables: str, end: str, interface: bool
) -> None:
    if "import.node" in tables and "[import]" in tables and tables.index("[import]") > 0:
        return  # TOML lets a table come after its children; then there are two places
    before = "\n".join(filter(None, [head, tables])) + end
    wanted = tomllib.loads(before)
    after = tomledit.put(before, {"announce": '["10.1.0.0/24"]', "nat": '"ipnat"'})
    wanted |= {"announce": ["10.1.0.0/24"], "nat": "ipnat"}
    if interface:
        after = tomledit.put(after, {"interface": '"znic0"', "pool": "7"}, "illumos")
        wanted["illumos"] = wanted.get("illumos", {}) | {"interface": "znic0", "pool": 7}
    assert tomllib.loads(after) == wanted
    # Every line of a person that was no such option is still there, in its order.
    kept = [line for line in before.split("\n") if not line.startswith(("announce", "nat", "pool"))]
    kept = [line for line in kept if line not in ('  "10.9.0.0/24",', "]", "")]
    rest = iter(after.split("\n"))
    assert all(line in rest for line in kept)
