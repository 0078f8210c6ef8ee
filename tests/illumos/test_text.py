"""What we write for the tools is accepted by them and means what was meant."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zonebox import LINES, Zone

from meshd.kernel.illumos import blocks, nat, pool, routes
from protocol.address import Prefix

SOURCE = Prefix.parse("10.1.0.0/24")
FREE = st.integers(0x0A020000, 0x0AFFFFFF)
"""10.2.0.0 to the end of 10/8: the mesh, apart from what is announced here."""


ONE = st.builds(
    lambda address, length: Prefix(4, address >> (32 - length) << (32 - length), length),
    FREE,
    st.integers(16, 32),
)


def nets4(most: int = 12) -> st.SearchStrategy[frozenset[Prefix]]:
    return st.frozensets(ONE, max_size=most)


def nets6() -> st.SearchStrategy[frozenset[Prefix]]:
    texts = st.integers(1, 0xFFFF).map(lambda number: Prefix.parse(f"fd02:{number:x}::/64"))
    return st.frozensets(texts, max_size=4)


BOTH = st.builds(frozenset.union, nets4(), nets6())


def lines(*found: object) -> str:
    return "".join(f"{line}\n" for line in found)


def four(prefixes: frozenset[Prefix]) -> set[Prefix]:
    return set(nat.four(prefixes))


# -- ippool --------------------------------------------------------------------------------------


@given(prefixes=BOTH, number=st.integers(1, 999))
def test_a_pool_is_what_was_written(prefixes: frozenset[Prefix], number: int) -> None:
    zone, text = Zone(), lines(*pool.table(number, prefixes))
    assert pool.listed(text, number) == pool.Pool(frozenset(nat.four(prefixes)))
    zone.do("ippool -f - -n", text)
    zone.do("ippool -f -", text)
    found = pool.listed(zone.do(" ".join(pool.show(number))), number)
    assert found == pool.Pool(frozenset(nat.four(prefixes)))
    assert pool.listed(zone.do("ippool -l"), number + 1) is None


def test_a_thousand_entries_are_one_pool() -> None:
    many: list[Prefix] = [Prefix(4, 0x0A020000 + (number << 8), 24) for number in range(1000)]
    zone = Zone()
    zone.do("ippool -f -", lines(*pool.table(13, many)))
    found = pool.listed(zone.do("ippool -l"), 13)
    assert found is not None
    assert found.nets == set(many)


@given(prefixes=nets4(4))
def test_entries_come_and_go_one_by_one(prefixes: frozenset[Prefix]) -> None:
    zone = Zone()
    zone.do("ippool -A -m 13 -t tree")
    for prefix in prefixes:
        zone.do(" ".join(pool.add(13, prefix)))
    found = pool.listed(zone.do("ippool -l"), 13)
    assert found is not None
    assert found.nets == prefixes
    for prefix in prefixes:
        zone.do(" ".join(pool.remove(13, prefix)))
    zone.do(" ".join(pool.destroy(13)))
    assert zone.machine.pools == []


def test_entries_of_others_are_told_apart() -> None:
    zone = Zone()
    zone.do(
        "ippool -f -",
        "table role = ipf type = tree number = 13 { !10.2.0.5/32, fd00::/64, 10.2.0.0/24 };"
        "table role = ipf type = tree name = mesh { 10.9.0.0/24; };",
    )
    found = pool.listed(zone.do("ippool -l"), 13)
    assert found is not None
    assert found.nets == {Prefix.parse("10.2.0.0/24")}
    assert set(found.others) == {"!10.2.0.5/32", "fd00::/64"}


def test_it_is_seen_whether_rules_refer_to_a_pool() -> None:
    zone = Zone()
    zone.do("ippool -A -m 13 -t tree")
    assert pool.references(zone.run(" ".join(pool.inspect(13))).out) == 2
    zone.do("ipf -f -", lines(*pool.filter_lines("pnic0", SOURCE, 13, "inet")))
    assert pool.references(zone.run(" ".join(pool.inspect(13))).out) == 3
    assert pool.references("") is None


# -- the rules around a pool ---------------------------------------------------------------------

FILTER = pool.filter_lines("pnic0", SOURCE, 13, "inet")
MAPS = pool.map_lines("pnic0", SOURCE, "inet")
SHAPES = {
    "ours": (FILTER, MAPS, ""),
    "inverted, with a rest": (
        ["pass out quick on pnic0 from 10.1.0.0/24 to ! pool/13 set-tag(nat=inet)",
         "pass out quick on pnic0 all"],
        MAPS, "",
    ),
    "inverted, without": (
        ["pass out quick on pnic0 from 10.1.0.0/24 to ! pool/13 set-tag(nat=inet)"],
        MAPS, "ipf has no rule",
    ),
    "wider": (
        ["pass out quick from 10.0.0.0/8 to pool/13",
         "pass out quick from any to any set-tag(nat=x)"],
        [line.replace("inet", "x").replace("10.1.0.0/24", "10.0.0.0/8") for line in MAPS], "",
    ),
    "exchanged": (FILTER[::-1], MAPS, "exchange them"),
    "no pool": (FILTER[1:], MAPS, "to pool/13"),
    "no tag": (FILTER[:1], MAPS, "set-tag(nat=inet)"),
    "another tag": (FILTER, [line.replace("inet", "x") for line in MAPS], "set-tag(nat=x)"),
    "another source": (
        [line.replace("10.1.", "10.7.") for line in FILTER], MAPS, "from 10.1.0.0/24 to pool/13",
    ),
    "another interface": ([line.replace("pnic0", "net7") for line in FILTER], MAPS, "no rule"),
    "no rules": ([], MAPS, "ipf has no rule"),
    "untagged map line": (
        FILTER, [*MAPS, "map pnic0 10.1.0.0/24 -> 0/32"], "has no tag",
    ),
    "no map line": (FILTER, [], "portmap tcp/udp auto tag inet"),
    "no map line without ports": (FILTER, MAPS[:1], '"map pnic0 10.1.0.0/24 -> 0/32 tag inet"'),
    "only half of the subnet": (
        FILTER, [line.replace("/24 ->", "/25 ->") for line in MAPS], "ipnat has no line",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_pool_needs_around_it_is_missed(shape: str) -> None:
    filters, maps, expected = SHAPES[shape]
    zone = Zone()
    zone.do("ippool -f -", lines(*pool.table(13, [Prefix.parse("10.2.0.0/24")])))
    zone.do("ipf -f -", lines(*filters))
    zone.do("ipnat -f -", lines(*maps))
    found = pool.missing(SOURCE, 13, nat.listed(zone.do("ipnat -l")), zone.run("ipfstat -o").out)
    if not expected:
        assert found == []
    else:
        assert len(found) == 1
        assert expected in found[0]
    # What is not missed works, and what is missed does not.
    works = (zone.source("10.2.0.7"), zone.source("8.8.8.8")) == ("10.1.0.5", "192.0.2.9")
    icmp = zone.source("8.8.8.8", "10.1.0.200", "icmp") == "192.0.2.9"
    if shape != "no tag":  # That works while no other rule of ipf takes what is for elsewhere.
        assert (works and icmp) == (not expected)


# -- ipnat ---------------------------------------------------------------------------------------


def listing(zone: Zone) -> list[nat.Map]:
    found = nat.listed(zone.do("ipnat -l"))
    assert not any(isinstance(each, str) for each in found)
    return [each for each in found if isinstance(each, nat.Map)]


@settings(max_examples=40)
@given(mesh=BOTH, local=st.sampled_from([[SOURCE], [SOURCE, Prefix.parse("10.1.9.0/24")]]))
def test_a_list_is_what_was_written(mesh: frozenset[Prefix], local: list[Prefix]) -> None:
    zone, text = Zone(), lines(*nat.text("pnic0", local, mesh))
    zone.do("ipnat -n -f -", text)
    zone.do("ipnat -f -", text)
    there = listing(zone)
    assert there == [nat.parse(line) for line in text.splitlines()]
    assert nat.effective(there, "pnic0", SOURCE) == four(mesh)
    assert not nat.reload(there, frozenset(there), "pnic0", local, mesh)
    for prefix in four(mesh):
        assert zone.source(str(prefix.network_address)) == "10.1.0.5"
    assert zone.source("8.8.8.8") == zone.source("8.8.8.8", proto="icmp") == "192.0.2.9"


def test_a_thousand_exclusions_are_one_list() -> None:
    many: list[Prefix] = [Prefix(4, 0x0A020000 + (number << 8), 24) for number in range(1000)]
    zone = Zone()
    zone.do("ipnat -n -f -", lines(*nat.text("pnic0", [SOURCE], many)))
    assert len(nat.text("pnic0", [SOURCE], many)) == 1002


OURS_MAYBE = st.lists(
    st.one_of(
        st.integers(1, 3).flatmap(lambda n: st.sampled_from(nat.base("pnic0", SOURCE, n))),
        ONE.map(lambda net: nat.exclusion("pnic0", SOURCE, net)),
    ),
    unique=True,
    max_size=8,
)  # fmt: skip
"""Whatever a crash may have left, and more."""


@settings(max_examples=60)
@given(there=OURS_MAYBE, before=nets4(6), after=nets4(6))
def test_a_list_becomes_another_without_a_gap(
    there: list[nat.Map], before: frozenset[Prefix], after: frozenset[Prefix]
) -> None:
    zone = Zone()
    zone.do("ipnat -f -", lines(*there))

    def step(wanted: frozenset[Prefix], held: frozenset[Prefix] | None) -> None:
        now = listing(zone)
        change = nat.reload(now, frozenset(now), "pnic0", [SOURCE], wanted)
        for argument, changed in (("-f", change.add), ("-rf", change.remove)):
            for line in changed:
                zone.do(f"ipnat {argument} -", lines(line))
                if held is not None:
                    look(held & wanted)
        now = listing(zone)
        assert nat.effective(now, "pnic0", SOURCE) == wanted
        assert {line.to for line in now if line.excludes} == wanted
        assert not nat.reload(now, frozenset(now), "pnic0", [SOURCE], wanted)

    def look(mesh: frozenset[Prefix]) -> None:
        for prefix in mesh:
            assert zone.source(str(prefix.network_address)) == "10.1.0.5"
        assert zone.source("8.8.8.8") == zone.source("8.8.8.8", proto="icmp") == "192.0.2.9"

    step(before, None)
    step(after, before)


@settings(max_examples=50)
@given(foreign=nets4(4), mesh=nets4(4), ours=nets4(4))
def test_lines_of_others_stay_and_count(
    foreign: frozenset[Prefix], mesh: frozenset[Prefix], ours: frozenset[Prefix]
) -> None:
    zone = Zone()
    theirs = [nat.exclusion("pnic0", SOURCE, each) for each in nat.four(foreign)]
    theirs += [nat.exclusion("pnic0", Prefix.parse("10.1.7.0/24"), each) for each in nat.four(mesh)]
    zone.do("ipnat -f -", lines(*theirs, *nat.text("pnic0", [SOURCE], ours - foreign)))
    mine = frozenset(listing(zone)) - frozenset(theirs)
    change = nat.reload(listing(zone), mine, "pnic0", [SOURCE], mesh)
    assert not set(theirs) & {*change.add, *change.remove}
    zone.do("ipnat -f -", lines(*change.add))
    zone.do("ipnat -rf -", lines(*change.remove))
    assert nat.effective(listing(zone), "pnic0", SOURCE) == mesh | foreign
    gone = nat.reload(listing(zone), frozenset(listing(zone)) - set(theirs), "pnic0", [], [])
    zone.do("ipnat -rf -", lines(*gone.remove))
    assert listing(zone) == theirs


def test_a_line_that_translates_ahead_of_ours_is_found() -> None:
    plain = nat.parse("map pnic0 10.1.0.0/24 -> 0/32 portmap tcp/udp auto")
    wide = nat.parse("map pnic0 10.0.0.0/8 -> 192.0.2.77/32")
    assert plain is not None
    assert wide is not None
    ours = nat.base("pnic0", SOURCE, 1)
    assert nat.ahead_of_ours([plain, *ours], SOURCE) == plain
    assert nat.ahead_of_ours([wide, *ours], SOURCE) == wide
    assert nat.ahead_of_ours([*ours, plain], SOURCE) is None
    other = nat.parse("map pnic0 10.7.0.0/24 -> 0/32")
    assert other is not None
    assert nat.ahead_of_ours([other, *ours], SOURCE) is None


@pytest.mark.parametrize(
    "line",
    [
        "rdr pnic0 192.0.2.9/32 port 80 -> 10.1.0.5 port 80 tcp",
        "bimap pnic0 10.1.0.5/32 -> 192.0.2.10/32",
        "map pnic0 10.1.0.0/24 -> range 192.0.2.1-192.0.2.5",
        "map pnic0 from 10.1.0.0/24 port = 25 to any -> 0.0.0.0/32",
        "map pnic0 10.1.0.0/24 -> 0.0.0.0/32 proxy port ftp ftp/tcp",
        "map pnic0 from nonsense to 10.0.0.0/8 -> 0/32",
    ],
)
def test_what_is_not_understood_is_nobody_of_ours(line: str) -> None:
    assert nat.parse(line) is None


def shape(line: str) -> str:
    """A rule without its numbers."""
    return re.sub(
        r"\d+(\.\d+)*/(\d+)", lambda net: "N" if net[2] not in ("0", "32") else net[0], line
    )


def test_every_line_that_we_write_has_a_shape_that_was_run() -> None:
    """... through the platform's own parsers: RECORDED.md, 2 and 9."""
    run = {shape(rule) for line in LINES for rule in line.split("`")[1::2]}
    run |= {shape(re.split(r" {2,}", line)[1]) for line in LINES if line.startswith("0  ")}
    written = nat.text("pnic0", [SOURCE], [Prefix.parse("10.2.0.0/24")])
    marked = [line.replace("240.0.0.1/32", "10.0.0.0/8") for line in written]
    table = " ".join(" ".join(pool.table(13, nat.four([SOURCE]))).split())
    for line in (*marked, *FILTER, *MAPS):
        assert shape(line) in run, line
    assert shape(table.replace("{ 10.1.0.0/24; }", "{ 10.2.0.0/24; 10.3.0.0/24; }")) in run
    empty = " ".join(" ".join(pool.table(13, [])).split())
    assert empty.replace("number = 13", "name = mesh") in run


def test_a_line_that_was_rejected_is_never_taken_for_one_of_ours() -> None:
    rejected = [re.split(r" {2,}", line)[1] for line in LINES if line.startswith("1  ")]
    assert len(rejected) > 10
    for rule in rejected:
        assert nat.parse(rule) is None
        assert pool.listed(rule, 13) is None


# -- route ---------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(prefixes=BOTH)
def test_routes_are_what_was_written(prefixes: frozenset[Prefix]) -> None:
    zone = Zone()
    for prefix in prefixes:
        gateway = "192.0.2.2" if prefix.version == 4 else "2001:db8::2"
        where = Prefix.parse(gateway).network_address
        source = Prefix.parse("10.1.0.1" if prefix.version == 4 else "fd01::1").network_address
        zone.do(" ".join(routes.add_reject(prefix)))
        zone.do(" ".join(routes.add(prefix, where, source)))
        assert zone.run(" ".join(routes.add(prefix, where))).code == routes.EEXIST
        zone.do(" ".join(routes.delete_reject(prefix)))
        got = routes.got(zone.do(" ".join(routes.get(prefix))))
        assert got is not None
        assert (got.ours, got.gateway) == (True, where)
        zone.do(" ".join(routes.delete(prefix, where)))
    assert zone.machine.routes == []


# -- our lines in a file -------------------------------------------------------------------------

FOREIGN = st.lists(
    st.sampled_from(["", "# a comment", "map x 10.0.0.0/8 -> 0/32", "\tinside", " "])
)


OWNER = "/var/meshd/state"
BEGIN = blocks.begin(OWNER)


def put(text: str, *ours: str, owner: str = OWNER) -> str:
    ahead, _, after = blocks.split(text, owner)
    return blocks.joined(ahead, ours, after, owner)


@given(theirs=FOREIGN, last=st.sampled_from(["", "\n", "no newline"]), first=FOREIGN, more=FOREIGN)
def test_what_others_wrote_stays_octet_for_octet(
    theirs: list[str], last: str, first: list[str], more: list[str]
) -> None:
    text = lines(*theirs) + last
    once = put(text, "a", *first)
    assert blocks.split(once, OWNER) == ("", ["a", *first], text)
    twice = put(once, "b", *more)
    assert blocks.split(twice, OWNER) == ("", ["b", *more], text)
    assert put(once, "a", *first) == once
    assert put(twice) == text


def test_ours_stay_where_somebody_moved_them() -> None:
    moved = "ahead\n" + put("", "a") + "after\n"
    assert put(moved, "b") == "ahead\n" + put("", "b") + "after\n"
    assert put(moved) == "ahead\nafter\n"


def test_an_editor_that_writes_crlf_leaves_them_ours_and_its_own_line_ends() -> None:
    found = put(lines("a comment", "map x"), "a", "b").replace("\n", "\r\n")
    assert put(found, "a", "b") == put("", "a", "b") + "a comment\r\nmap x\r\n"
    assert put(found) == "a comment\r\nmap x\r\n"


def test_an_octet_that_some_take_for_the_end_of_a_line_is_none() -> None:
    text = f"# \x85{blocks.END}\n# \x0c{blocks.BEGIN}\n"
    assert put(put(text, "a")) == text


def test_lines_of_another_daemon_are_named_and_left_alone() -> None:
    theirs = put("map x\n", "a", owner="/var/other/state")
    with pytest.raises(blocks.Foreign, match="meshd of /var/other/state"):
        put(theirs, "b")


@pytest.mark.parametrize(
    "wrong", [*itertools.permutations([BEGIN, blocks.END, blocks.END], 3), (BEGIN,)]
)
def test_damaged_markers_are_not_written_over(wrong: tuple[str, ...]) -> None:
    with pytest.raises(blocks.Damaged):
        put(lines(*wrong), "a")
