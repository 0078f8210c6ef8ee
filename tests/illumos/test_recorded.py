"""The fakes do what RECORDED.md says of the real tools, every line of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from zonebox import LINES, Zone

import illumosfakes

Case = Callable[[Zone], None]
CASES: dict[str, Case] = {}
"""From how a line begins to what is put to the fakes for it."""


def case(*beginnings: str) -> Callable[[Case], Case]:
    """The decorated function is the case of the lines that begin so."""

    def enter(check: Case) -> Case:
        for beginning in beginnings:
            assert beginning not in CASES
            CASES[beginning] = check
        return check

    return enter


BASE = "map pnic0 10.1.0.0/24 -> 0/32 portmap tcp/udp auto\nmap pnic0 10.1.0.0/24 -> 0/32\n"
TAGGED = BASE.replace("auto", "auto tag inet").replace("0/32\n", "0/32 tag inet\n")
TWO = (
    "map pnic0 from 10.1.0.0/24 to 10.2.0.0/24 -> 0/0\n"
    "map pnic0 from 10.1.0.0/24 to 10.3.0.0/24 -> 0/0\n"
)
POOL = "table role = ipf type = tree number = 13 { 10.2.0.0/24; 10.3.0.0/24; };"
TAGGING = (
    "pass out quick on pnic0 from 10.1.0.0/24 to pool/13\n"
    "pass out quick on pnic0 from 10.1.0.0/24 to any set-tag(nat=inet)\n"
)
MESH = ("10.2.0.7", "10.3.0.7", "8.8.8.8")
OWN, PUBLIC = "10.1.0.5", "192.0.2.9"


def sources(zone: Zone, proto: str = "tcp") -> tuple[str, ...]:
    return tuple(zone.source(each, proto=proto) for each in MESH)


# -- 2: the tag form ---------------------------------------------------------------------------


def tagged(zone: Zone) -> None:
    zone.do("ippool -f -", POOL)
    zone.do("ipf -f -", TAGGING)
    zone.do("ipnat -f -", TAGGED)
    assert sources(zone) == (OWN, OWN, PUBLIC)


@case("`map pnic0", "`pass out quick")
def _(zone: Zone) -> None:
    for line in LINES:
        if line.startswith(("`map", "`pass")):
            tool = "ipnat" if line.startswith("`map") else "ipf"
            for rule in line.split("`")[1::2]:
                zone.do(f"{tool} -f -", f"{rule}\n")


@case("no ipf rule matched")
def _(zone: Zone) -> None:
    tagged(zone)
    zone.do("ipf -Fa")
    assert sources(zone) == (PUBLIC, PUBLIC, PUBLIC)


@case("`pool/13` named by a rule and not loaded")
def _(zone: Zone) -> None:
    zone.do("ipf -f -", TAGGING)
    zone.do("ippool -f -", POOL)
    zone.do("ipnat -f -", TAGGED)
    assert sources(zone) == (PUBLIC, PUBLIC, PUBLIC)


@case("an ipf rule with a tag does not match an untagged map line")
def _(zone: Zone) -> None:
    zone.do("ippool -f -", POOL)
    zone.do("ipf -f -", TAGGING)
    zone.do("ipnat -f -", BASE)
    assert sources(zone) == (PUBLIC, PUBLIC, OWN)


# -- 3.2: ippool -------------------------------------------------------------------------------


def nodes(zone: Zone) -> list[str]:
    pool = zone.machine.pool("13")
    assert pool is not None
    return list(pool["nodes"])


@case("`ippool -f FILE")
def _(zone: Zone) -> None:
    said = zone.run("ippool -n -f -", POOL)
    assert said.code == 1
    assert zone.machine.pools == []
    zone.do("ippool -f - -n", POOL)
    assert zone.machine.pools == []
    assert zone.run("ippool -f -", f"{POOL}\ntable nonsense").code == 1
    assert nodes(zone) == ["10.2.0.0/24", "10.3.0.0/24"]  # the first was loaded
    said = zone.run("ippool -f -", POOL.replace("10.3", "10.4"))
    assert said.code == 0
    assert "File exists" in said.err
    assert nodes(zone) == ["10.2.0.0/24", "10.3.0.0/24"]  # and nothing changes
    zone.do("ippool -f - -u", POOL)
    assert zone.machine.pools == []


@case("`ippool -a -m 13")
def _(zone: Zone) -> None:
    zone.do("ippool -f -", POOL)
    zone.do("ipf -f -", TAGGING)
    zone.do("ippool -a -m 13 -i 10.4.0.0/24")
    assert zone.source("10.4.0.7") == OWN
    said = zone.run("ippool -a -m 13 -i 10.4.0.0/24")
    assert said.code == 255
    assert "File exists" in said.err
    assert zone.run("ippool -a -m 13 -i 10.4.0.9/24").code == 255  # the same key
    assert zone.run("ippool -a -o nat -m 13 -i 10.5.0.0/24").code == 255


@case("`ippool -r -m 13")
def _(zone: Zone) -> None:
    zone.do("ippool -f -", POOL)
    zone.do("ipf -f -", TAGGING)
    zone.do("ippool -r -m 13 -i 10.3.0.0/24")
    assert nodes(zone) == ["10.2.0.0/24"]
    assert zone.run("ippool -r -m 13 -i 10.3.0.0/24").code == 255
    assert zone.run("ippool -r -m 14 -i 10.2.0.0/24").code == 255


@case("`ippool -A -m 13")
def _(zone: Zone) -> None:
    assert zone.run("ippool -A -m 13").code == 1
    assert zone.machine.pools == []
    zone.do("ippool -A -m 13 -t tree")
    zone.do("ipf -f -", TAGGING)
    said = zone.run("ippool -R -m 13 -t tree")
    assert (said.code, "busy" in said.err) == (255, True)
    zone.do("ipf -Fa")
    assert zone.run("ippool -R -m 13").code == 1
    zone.do("ippool -R -m 13 -t tree")
    assert zone.machine.pools == []


@case("`ippool -F")
def _(zone: Zone) -> None:
    zone.do("ippool -f -", POOL.replace("13", "12") + POOL + POOL.replace("13", "14"))
    zone.do("ipf -f -", TAGGING)
    assert zone.do("ippool -F -t tree") == "1 object flushed\n"
    assert [pool["name"] for pool in zone.machine.pools] == ["13", "14"]
    assert zone.run("ippool -F -n").code == 1


@case("`ippool -l")
def _(zone: Zone) -> None:
    zone.do("ippool -f -", POOL + POOL.replace("13", "14"))
    listed = "table role = ipf type = tree number = 13\n\t{ 10.3.0.0/24; 10.2.0.0/24; };\n"
    assert zone.do("ippool -l -m 13") == listed
    assert zone.do("ippool -l") == listed + listed.replace("13", "14")
    zone.do("ippool -A -m 15 -t tree")
    assert zone.do("ippool -l -m 15").endswith("number = 15\n\t{; };\n")


@case("`-z ZONE`")
def _(zone: Zone) -> None:
    for letter in ("-z", "-G"):
        assert zone.run(f"ippool {letter} r1 -A -m 13 -t tree").code == 1
    assert zone.machine.pools == []


# -- 3.3, 3.4: ipnat and ipf -------------------------------------------------------------------


def rules(zone: Zone) -> list[str]:
    listed = zone.do("ipnat -l")
    assert listed.startswith("List of active MAP/Redirect filters:\n")
    return listed.partition("\n\nList of active sessions:\n")[0].split("\n")[1:]


@case("`ipnat -n -f FILE` rehearses")
def _(zone: Zone) -> None:
    zone.do("ipnat -n -f -", BASE)
    assert zone.run("ipnat -nf -", BASE + "map nonsense\n").code == 1
    assert zone.machine.nat == []


@case("`ipnat -f -` appends")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", BASE)
    zone.do("ipnat -f -", TWO)
    assert rules(zone)[:2] == [line.replace("0/32", "0.0.0.0/32") for line in BASE.splitlines()]
    assert sources(zone) == (PUBLIC, PUBLIC, PUBLIC)


@case("a syntax error is exit 1")
def _(zone: Zone) -> None:
    assert zone.run("ipnat -f -", TWO + "map pnic0 from { } -> 0/32\n" + BASE).code == 1
    assert len(zone.machine.nat) == 2


@case("the kernel's errors (EEXIST)")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", BASE)
    said = zone.run("ipnat -f -", BASE)
    assert said.code == 0
    assert said.err.count("File exists") == 2
    assert len(zone.machine.nat) == 2


@case("`ipnat -C` clears")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", BASE)
    zone.do("ipnat -C -f -", TWO)
    assert [rule["onto"] for rule in zone.machine.nat] == ["0.0.0.0/0", "0.0.0.0/0"]


@case("`ipnat -r -f -` removes")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", TWO + BASE)
    zone.do("ipnat -rf -", BASE)
    assert [rule["onto"] for rule in zone.machine.nat] == ["0.0.0.0/0", "0.0.0.0/0"]
    assert zone.run("ipnat -rf -", BASE).code == 0


@case("`ipnat -l` lists")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", TWO + BASE)
    assert len(rules(zone)) == 4
    assert rules(zone)[0] == "map pnic0 from 10.1.0.0/24 to 10.2.0.0/24 -> 0.0.0.0/0"
    assert zone.do("ipnat -l").endswith("\nList of active sessions:\n")


@case("CR is white space")
def _(zone: Zone) -> None:
    for tool, text in (("ippool", POOL), ("ipf", TAGGING), ("ipnat", TAGGED)):
        zone.do(f"{tool} -f -", f"{text}\n".replace("\n", "\r\n"))
    assert sources(zone) == (OWN, OWN, PUBLIC)


@case("two generations of one list")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", TWO + BASE)
    zone.do("ipnat -f -", BASE.replace("auto", "1024:65535").replace("0/32\n", "0/32 age 60\n"))
    assert sources(zone) == sources(zone, "icmp") == (OWN, OWN, PUBLIC)
    zone.do("ipnat -rf -", BASE)
    assert sources(zone) == (OWN, OWN, PUBLIC)


@case("rules go into the active set")
def _(zone: Zone) -> None:
    zone.do("ipf -f -", TAGGING)
    zone.do("ipf -I -f -", "pass out all\n")
    assert "pool/13" in zone.do("ipfstat -o")
    zone.do("ipf -s")
    assert zone.do("ipfstat -o") == "pass out all\n"


@case("`ipfstat -o` prints")
def _(zone: Zone) -> None:
    assert zone.run("ipfstat -o") == (0, "", "empty list for ipfilter(out)\n")
    zone.do("ipf -f -", TAGGING)
    assert zone.do("ipfstat -o") == TAGGING


@case("ioctls answer EIO")
def _(zone: Zone) -> None:
    zone.do("ipf -D")
    for command in ("ippool -l", "ipnat -l", "ippool -a -m 13 -i 10.2.0.0/24"):
        said = zone.run(command)
        assert said.code != 0
        assert "I/O error" in said.err
    zone.do("ipf -E")
    zone.do("ippool -l")


# -- 4: routes ---------------------------------------------------------------------------------

ADD = "route -n add 10.2.0.0/24 192.0.2.2"


@case("`route -n add 10.2.0.0/24")
def _(zone: Zone) -> None:
    assert zone.do(ADD) == "add net 10.2.0.0/24: gateway 192.0.2.2\n"


@case("a second `add` of the same")
def _(zone: Zone) -> None:
    zone.do(ADD)
    said = zone.run(ADD)
    assert said == (17, "add net 10.2.0.0/24: gateway 192.0.2.2: entry exists\n", "")


@case("`add` of the same destination")
def _(zone: Zone) -> None:
    zone.do(ADD)
    zone.do(ADD.replace("192.0.2.2", "192.0.2.3"))
    assert [route["gateway"] for route in zone.machine.routes] == ["192.0.2.2", "192.0.2.3"]


@case("`delete` needs the gateway")
def _(zone: Zone) -> None:
    assert zone.run("route -n delete 10.2.0.0/24").code == 1
    said = zone.run("route -n delete 10.2.0.0/24 192.0.2.2")
    assert said == (3, "delete net 10.2.0.0/24: gateway 192.0.2.2: not in table\n", "")


@case("without the privilege")
def _(zone: Zone) -> None:
    zone.machine.held["privileged"] = False
    said = zone.run(ADD)
    assert (said.code, "insufficient privileges" in said.out) == (1, True)


@case("a gateway that is not on a link")
def _(zone: Zone) -> None:
    assert zone.run("route -n add 10.2.0.0/24 198.51.100.1").code == 128


@case("without a prefix length")
def _(zone: Zone) -> None:
    zone.do("route -n add 10.0.0.0 192.0.2.2")
    assert zone.machine.routes[0]["dest"] == "10.0.0.0/8"


@case("`-q` silences")
def _(zone: Zone) -> None:
    assert zone.do(ADD.replace("-n", "-nq")) == ""


@case("`-proto1` is told")
def _(zone: Zone) -> None:
    zone.do(f"{ADD} -proto1")
    assert "PROTO1" in zone.do("route -n get 10.2.0.0/24")
    assert zone.do("netstat -rnv -f inet").count("UG ") == 1
    zone.do("route -n add 10.3.0.0/24 192.0.2.2")
    assert "PROTO1" not in zone.do("route -n get 10.3.0.0/24")


@case("`netstat -rn` has no prefix")
def _(zone: Zone) -> None:
    zone.do(ADD)
    assert "255.255.255.0" not in zone.do("netstat -rn -f inet")
    (line,) = [row for row in zone.do("netstat -rnv -f inet").splitlines() if "10.2.0.0" in row]
    assert line.split()[:4] == ["10.2.0.0", "255.255.255.0", "192.0.2.2", "1500"]


@case("`netstat -rnv` shows R and B")
def _(zone: Zone) -> None:
    zone.do("route -n add 10.2.0.0/24 127.0.0.1 -reject")
    zone.do("route -n add -inet6 fd02::/64 ::1 -reject")
    four, six = zone.do("netstat -rnv").split("IPv6")
    assert [row.split()[6] for row in four.splitlines() if "10.2.0.0" in row] == ["URB"]
    assert [row.split()[5] for row in six.splitlines() if "fd02" in row] == ["U"]


@case("`netstat -rnv` prints flags")
def _(zone: Zone) -> None:
    zone.machine.held["sent"] = 123456
    zone.do("route -n add 10.2.0.7/32 192.0.2.2 -setsrc 10.1.0.1")
    zone.do(ADD)
    listed = zone.do("netstat -rnv -f inet")
    assert " UGHS123456      0 \n" in listed
    assert " UG  123456      0 \n" in listed


@case("by 127.0.0.1 or ::1")
def _(zone: Zone) -> None:
    zone.do("route -n add 10.2.0.0/24 127.0.0.1 -reject")
    told = zone.do("route -n get 10.2.0.0/24")
    assert "interface: lo0" in told
    assert "<UP,REJECT,DONE,STATIC,BLACKHOLE>" in told
    assert " 127.0.0.1            lo0     1500   1 URB " in zone.do("netstat -rnv -f inet")


@case("`-reject` and `-setsrc`")
def _(zone: Zone) -> None:
    zone.do("route -n add 10.2.0.0/24 127.0.0.1 -reject")
    assert "REJECT" in zone.do("route -n get 10.2.0.0/24")
    zone.do("route -n add -setsrc 10.1.0.1 10.3.0.0/24 192.0.2.2")
    assert "setsrc: 10.1.0.1" in zone.do("route -n get 10.3.0.0/24")
    assert zone.run("route -n add -setsrc 10.9.9.9 10.4.0.0/24 192.0.2.2").code == 126


@case("`route -n monitor` tells")
def _(zone: Zone) -> None:
    zone.machine.pid = 4711
    zone.do(f"{ADD} -proto1")
    (event,) = zone.machine.events
    assert "RTM_ADD: Add Route: len 200, pid: 4711," in event
    assert event.endswith(" 10.2.0.0 192.0.2.2 255.255.255.0\n")


# -- 10: ippool and IPv6 -----------------------------------------------------------------------


@case("`ippool -l -d` tells")
def _(zone: Zone) -> None:
    zone.do("ippool -f -", POOL)
    code, out, err = zone.run("ippool -l -d -m 13")
    assert (code, "References: 2\t" in out, err != "") == (0, True, True)
    zone.do("ipf -f -", TAGGING)
    assert "References: 3\t" in zone.run("ippool -l -d -m 13").out


@case("`ippool -a -i fd00:1::/64`")
def _(zone: Zone) -> None:
    zone.do("ippool -A -m 13 -t tree")
    assert zone.run("ippool -a -m 13 -i fd00:1::/64") == (255, "", "")
    assert nodes(zone) == []


@case("`ippool -a -i fd00::/8`")
def _(zone: Zone) -> None:
    zone.do("ippool -A -m 13 -t tree")
    zone.do("ippool -a -m 13 -i fd00::/8")
    assert nodes(zone) == ["255.0.0.0/8"]


# -- 9.1, 9.2, 9.3: the parsers ----------------------------------------------------------------


def parser_case(line: str) -> Case | None:
    """What a line of 9.1 or 9.2 says by itself."""
    columns = re.split(r" {2,}", line)
    if columns[0] not in ("0", "1"):
        return None
    code, rule, says = int(columns[0]), columns[1].replace("…", "10.2.0.0/24;"), columns[2:3]
    tool = "ippool" if rule.startswith(("table", "pool")) else "ipnat"

    def check(zone: Zone) -> None:
        said = zone.run(f"{tool} -f -", rule)
        assert said.code == code
        assert bool(said.err) == bool(code)
        if code:
            assert says[0] in said.err

    return check


@case("0  map pnic0 from 10.1.0.0/24 to 10.2.0.0/24 -> 0/0")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", TWO)
    assert rules(zone)[0].endswith("-> 0.0.0.0/0")


@case("0  map * 10.1.0.0/24")
def _(zone: Zone) -> None:
    for text in (
        "map * 10.1.0.0/24 -> 0/32 portmap tcp/udp auto",
        "map * 10.1.0.0/24 -> 0/32 # comment\n",
        "map * 10.1.0.0/24 -> 0/32",
        "",
        "# nothing\n",
    ):
        zone.do("ipnat -n -f -", text)


@case("1  (line 2) bogus")
def _(zone: Zone) -> None:
    said = zone.run("ipnat -f -", BASE.splitlines()[0] + "\nbogus line here\n")
    assert (said.code, said.err) == (1, 'protocol set twice error at "bogus", line 2\n')


@case("0  table role = ipf type = tree name = mesh {…};  /")
def _(zone: Zone) -> None:
    table = "table role = ipf type = tree name = mesh { 10.2.0.0/24; };"
    for text in (
        table,
        'table role = ipf type = tree name = "mesh" {10.2.0.0/24; !10.2.0.5/32;};',
        table.replace("mesh", "mesh-peers"),
        table.replace("ipf", "nat"),
        table.replace("10.2.0.0/24;", "10.2.0.0/24, 10.3.0.0/24"),
        table.replace(" ", "\n"),
        table.replace("10.2.0.0/24", "fd00:1::/64"),
    ):
        zone.do("ippool -f - -n", text)


@case("0  … name = averyveryverylongname")
def _(zone: Zone) -> None:
    zone.do("ippool -f -", "table role = ipf type = tree name = averyveryverylongname { ; };")
    assert zone.machine.pools[0]["name"] == "averyveryverylon"


@case("1  table … {")
def _(zone: Zone) -> None:
    said = zone.run("ippool -f -", POOL.rstrip(";"))
    assert (said.code, 'error at ""' in said.err) == (1, True)


@case("accepted: `to pool/13`")
def _(zone: Zone) -> None:
    for tail in (
        "to pool/13",
        "to any set-tag(nat=inet)",
        "to any keep state set-tag(nat=inet)",
        "to ! pool/13",
    ):
        zone.do("ipf -n -f -", f"pass out quick on pnic0 from 10.1.0.0/24 {tail}\n")


@case("rejected: `to pool/mesh`")
def _(zone: Zone) -> None:
    for tail in ("to pool/mesh", "to any set-tag(nat=inet) keep state", "to any tag(nat=inet)"):
        assert zone.run("ipf -n -f -", f"pass out quick from 10.1.0.0/24 {tail}\n").code == 1


# -- 9.5: where a packet's source ends up ------------------------------------------------------


@case("A blog")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", BASE.replace("10.1.0.0/24 ->", "from 10.1.0.0/24 ! to 10.2.0.0/24 ->"))
    assert sources(zone) == (OWN, PUBLIC, PUBLIC)


@case("C two rules")
def _(zone: Zone) -> None:
    for peer in ("10.2.0.0/24", "10.3.0.0/24"):
        zone.do(
            "ipnat -f -",
            f"map pnic0 from 10.1.0.0/24 ! to {peer} -> 0/32 portmap tcp/udp auto\n",
        )
    assert sources(zone) == (PUBLIC, PUBLIC, PUBLIC)
    assert sources(zone, "icmp") == (OWN, OWN, OWN)  # portmap alone leaves ICMP as it is


@case("D 0/0 rule after base")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", BASE + TWO)
    assert sources(zone) == (PUBLIC, PUBLIC, PUBLIC)


@case("E -> 10.1.0.0/24")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", "map pnic0 from 10.1.0.0/24 to 10.2.0.0/24 -> 10.1.0.0/24\n")
    assert zone.source("10.2.0.7") == "10.1.0.1"


@case("F bimap identity")
def _(zone: Zone) -> None:
    rule = "bimap pnic0 from 10.1.0.0/24 to 10.2.0.0/24 -> 10.1.0.0/24\n"
    zone.do("ipnat -f -", rule + BASE)
    assert sources(zone) == (OWN, PUBLIC, PUBLIC)


def hosts_wrong(zone: Zone, destination: str) -> int:
    """Of 254 hosts of the subnet, those whose packets to the mesh are translated."""
    hosts = [f"10.1.0.{number}" for number in range(254)]
    return sum(zone.source(destination, host) != host for host in hosts)


@case("B 0/0 list first")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", TWO + BASE)
    assert sources(zone) == sources(zone, "icmp") == (OWN, OWN, PUBLIC)
    assert hosts_wrong(zone, "10.2.0.7") == 0


@case("G ! to 10.0.0.0/8")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", BASE.replace("10.1.0.0/24 ->", "from 10.1.0.0/24 ! to 10.0.0.0/8 ->"))
    assert sources(zone) == sources(zone, "icmp") == (OWN, OWN, PUBLIC)


@case("H pool + set-tag")
def _(zone: Zone) -> None:
    tagged(zone)
    assert sources(zone, "icmp") == (OWN, OWN, PUBLIC)
    zone.do("ippool -r -m 13 -i 10.3.0.0/24")
    assert sources(zone) == (OWN, PUBLIC, PUBLIC)


@case("J /25 halves after base")
def _(zone: Zone) -> None:
    zone.do("ipnat -f -", BASE)
    for half in ("10.1.0.0/25", "10.1.0.128/25"):
        zone.do("ipnat -f -", f"map pnic0 from {half} to 10.2.0.0/24 -> 0/0\n")
    assert hosts_wrong(zone, "10.2.0.7") == 128


# -- all of it ---------------------------------------------------------------------------------


def case_of(line: str) -> Case | None:
    """That with the longest beginning, or what the line says by itself."""
    own = sorted((each for each in CASES if line.startswith(each)), key=len)
    return CASES[own[-1]] if own else parser_case(line)


def test_no_recorded_line_is_without_its_case_and_no_case_without_its_line() -> None:
    assert [line for line in LINES if case_of(line) is None] == []
    used = {case_of(line) for line in LINES}
    assert [beginning for beginning, check in CASES.items() if check not in used] == []
    assert len(LINES) > 60


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_the_fakes_do_what_was_recorded(line: str) -> None:
    check = case_of(line)
    assert check is not None
    check(Zone())


def test_the_programs_say_and_keep_what_the_functions_do(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    illumosfakes.install(tools, tmp_path / "zone")

    def run(*argv: str, stdin: str = "") -> tuple[int, str, str]:
        done = subprocess.run(
            [str(tools / argv[0]), *argv[1:]], input=stdin, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    assert run("ippool", "-f", "-", stdin=POOL) == (0, "", "")
    code, out, err = run("ippool", "-f", "-", stdin=POOL)
    assert (code, out, "File exists" in err) == (0, "", True)
    assert "number = 13" in run("ippool", "-l")[1]
    assert run("route", "-n", "add", "10.2.0.0/24", "192.0.2.2")[0] == 128
    assert run("ipnat", "-l")[0] == run("ipfstat", "-o")[0] == run("ifconfig", "-a")[0] == 0
