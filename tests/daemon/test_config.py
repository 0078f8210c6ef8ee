"""The config file: what is accepted, and what each mistake is told."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import config, kernel, startup, values
from meshd.config import Config
from meshd.errors import UsageError
from meshd.kernel.illumos.options import Options
from meshd.local.check import Check
from meshd.policy.filters import Filter, Filters

SHIPPED = Path(__file__).parents[2] / "config" / "meshd.toml"
KEY = "c0" * 32


def complaint(read: Callable[[], object]) -> str:
    """What ``read`` complains of, or nothing; any other exception is the test's to see."""
    try:
        read()
    except UsageError as error:
        return str(error)
    return ""


def told(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        config.parse(text, "meshd.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("meshd.toml")
    return message


def test_an_empty_file_means_the_defaults() -> None:
    assert config.parse("", "meshd.toml") == Config()


def test_the_shipped_file_shows_every_option_at_its_default() -> None:
    shown = re.sub(r"^# (?=[a-z_]+ = |\[)", "", SHIPPED.read_text(), flags=re.MULTILINE)
    found = config.parse(shown, "meshd.toml")
    assert attrs.evolve(found, health={}) == Config()
    options = tomllib.loads(shown)
    fields = {field.name for field in attrs.fields(Config)}
    assert options.keys() == fields - {"imports"} | {"import"}
    assert options["import"].keys() == config._IMPORT.keys()
    (node,) = options["import"]["node"].values()
    assert node.keys() == config._NODE.keys()
    # What they are is the default, not merely nothing.
    assert options["import"]["limit_per_node"] == node["limit"] == Filter().limit
    assert options["import"]["limit"] == Filters().limit
    # A check has no default; the first of the three examples has all that is common to them.
    first, *_ = found.health.values()
    assert set().union(*options["health"].values()) == config._HEALTH.keys()
    assert attrs.evolve(first, command=()) == Check()


def test_the_shipped_file_changes_nothing_as_it_is() -> None:
    assert config.load(SHIPPED) == Config()


def test_what_is_rendered_reads_back_the_same() -> None:
    made = Config(
        authority=bytes.fromhex(KEY),
        next_authority_hash=bytes(range(32)),
        seeds=(values.seed("router-a.example"), values.seed("[2001:db8::1]:7000")),
        announce=tuple(map(values.announced, ("10.1.0.0/24", "fd00:1::/64", "interface:br0"))),
        advertise=(values.advertised("192.0.2.1"), values.advertised("[2001:db8::2]:7001")),
        pool=(values.prefix("10.0.0.0/8"),),
    )
    assert config.parse(config.render(made, "init"), "meshd.toml") == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("anounce = []", "unknown option anounce; did you mean announce?"),
        ("zzz = 1", "unknown option zzz; the options are authority, "),
        ("port = 70000", "port = 70000: give a whole number from 1 to 65535"),
        ("port = true", "port = true: give a whole number from 1 to 65535"),
        ('port = "6179"', 'port = "6179": give a whole number'),
        ("metric = 4294967294", "metric = 4294967294: give a whole number from 1 to 4294967293"),
        ('nat = "maybe"', "choose one of auto, exempt, masquerade, set, ippool, ipnat, off"),
        ("nat = []", "choose one of auto, exempt, masquerade, set, ippool, ipnat, off"),
        ('network = "man"', "choose one of lan, wan"),
        ('tunnel = "gre"', "choose one of off, vxlan"),
        ('when = "never"', "choose one of cross-subnet, always"),
        ("tunnel_port = 0", "tunnel_port = 0: give a whole number from 1 to 65535"),
        (
            'tunnel = "vxlan"\nport = 6180',
            "tunnel_port = 6180: meshd itself listens there; give another",
        ),
        ('announce = "10.1.0.0/24"', 'not a list of strings; write ["..."]'),
        ("announce = [1]", "not a list of strings"),
        ('announce = ["10.1.0.1/24"]', "10.1.0.1/24 has host bits set; the network is 10.1.0.0/24"),
        ('announce = ["fd00::1/64"]', "fd00::1/64 has host bits set; the network is fd00::/64"),
        ('announce = ["10.1.0.0"]', "10.1.0.0 has no length; write 10.1.0.0/32"),
        ('announce = ["10.1.0.0/33"]', "no valid length; it is a number from 0 to 32"),
        ('announce = ["10.1.0.0/255.255.255.0"]', "no valid length"),
        ('announce = ["::ffff:10.0.0.0/104"]', "is not a prefix"),
        ('announce = ["fe80::%eth0/64"]', "is not a prefix"),
        (
            'announce = ["10.1.0.0/16", "10.2.0.0/24", "10.1.3.0/24"]',
            "10.1.3.0/24 lies inside 10.1.0.0/16; keep only one of them",
        ),
        ('seeds = ["2001:db8::1:x"]', "is no host"),
        ('seeds = ["a:0"]', "no valid port; it is a number from 1 to 65535"),
        ('seeds = ["300.1.1.1"]', "is no host"),
        ('seeds = ["a b"]', "is no host"),
        ('advertise = ["router.example"]', "is no address; write ADDR, ADDR:PORT"),
        ('advertise = ["0.0.0.0"]', "0.0.0.0 cannot be sent to"),
        ('advertise = ["192.0.2.1", "192.0.2.2"]', "are of one family; advertise one of them"),
        ('authority = "abc"', "not 64 lower-case hex digits; copy it from another member's file"),
        (f'authority = "{"00" * 32}"', "public key of small order"),
        ("[imports]", "unknown option imports; did you mean import?"),
        (
            "[import]\nport = 1",
            "unknown option import.port; port must stand above the first [table]",
        ),
        ("import = 3", "import = 3: not a table; write [import] over its options"),
        ("[import]\nalow = []", "unknown option import.alow; did you mean allow?"),
        (
            "[import]\nzzz = []",
            "unknown option import.zzz; the options are allow, deny, limit_per_node",
        ),
        ("[import]\nnodes.b.refuse = true", "unknown option import.nodes; did you mean node?"),
        ('[import]\ndeny = "10.0.0.0/8"', 'import.deny = "10.0.0.0/8": not a list of strings'),
        ('[import]\nallow = ["10.1.0.1/24"]', "has host bits set; the network is 10.1.0.0/24"),
        ("[import]\nlimit = 20001", "import.limit = 20001: give a whole number from 1 to 20000"),
        (
            "[import]\nlimit_per_node = 0",
            "import.limit_per_node = 0: give a whole number from 1 to",
        ),
        ("[import]\nnode = []", "import.node = []: not a table; write [import.node]"),
        ("[import.node]\nb = true", "import.node.b = true: not a table; write [import.node.b]"),
        (
            "[import.node.b]\nrefuses = true",
            "unknown option import.node.b.refuses; did you mean refuse?",
        ),
        ('[import.node.b]\nrefuse = "yes"', 'import.node.b.refuse = "yes": write true or false'),
        ("[import.node.b]\nlimit = 1001", "import.node.b.limit = 1001: give a whole number from 1"),
        ("[import.node.B]", "import.node.B: neither a member's name nor its id of 64 hex digits"),
        ('[import.node."b\\u001b"]', "neither a member's name"),
        ("preference = 256", "preference = 256: give a whole number from 0 to 255"),
        ("multipath = 1", "multipath = 1: write true or false"),
        ('announce = ["interface:a/b"]', "a/b can be no interface's name; write one like br0"),
        ('announce = ["interfaces:br0"]', "is not a prefix; write one like 10.1.0.0/24"),
        ("health = 3", "health = 3: not a table; write [health]"),
        ("[health]\ntcp = '10.1.0.2:443'", 'health."tcp": tcp is not a prefix; write one like'),
        ("[health.'10.1.0.0/24']", 'health."10.1.0.0/24": give exactly one of command, tcp and'),
        (
            "[health.'10.1.0.0/24']\ntcp = '10.1.0.2:443'\ninterface = 'br0'",
            "give exactly one of command, tcp and interface",
        ),
        ("[health.'10.1.0.0/24']\ntcp = '10.1.0.2'", "without a port; write ADDR:PORT"),
        ("[health.'10.1.0.0/24']\ntcp = 'db.example:443'", "is no address; write ADDR"),
        ("[health.'10.1.0.0/24']\ntcp = 443", "tcp = 443: write it in quotes"),
        ("[health.'10.1.0.0/24']\ncommand = 'check'", 'command = "check": not a list of strings'),
        ("[health.'10.1.0.0/24']\ncommand = []", "begin with the whole path of a program"),
        ("[health.'10.1.0.0/24']\ncommand = ['check']", "begin with the whole path of a program"),
        ("[health.'10.1.0.0/24']\ncommand = ['/a\\u0000']".replace("'", '"'), "a NUL; leave it"),
        ("[health.'10.1.0.0/24']\ninterface = 'a:1'", "a:1 can be no interface's name"),
        (
            "[health.'10.1.0.0/24']\ninterface = 'br0'\nrise = 0",
            'health."10.1.0.0/24".rise = 0: give a whole number from 1 to 100',
        ),
        (
            "[health.'10.1.0.0/24']\ninterface = 'br0'\ninterval = 0",
            "give seconds, from 0.1 to 3600",
        ),
        ("[health.'10.1.0.0/24']\ninterface = 'br0'\ntimeout = true", "give seconds, from 0.1"),
        ("[health.'10.1.0.0/24']\ninterfaces = 'br0'", "did you mean interface?"),
        ("[import.node.b.example]", 'a name with dots stands in quotes: [import.node."b.example"]'),
        ("a = [", "not TOML"),
        ("port = 1\nport = 2", "not TOML"),
        ("a = " + "[" * 5000, "nested too deep"),
    ],
)
def test_a_mistake_is_told_with_file_key_value_and_remedy(text: str, said: str) -> None:
    assert said in told(text)


def test_filters_are_read_for_all_and_for_each_node_by_name_or_id() -> None:
    made = config.parse(
        f"""
        [import]
        allow = ["10.0.0.0/8", "fd00::/8"]
        deny = ["10.66.0.0/16", "10.66.6.0/24", "10.66.0.0/16"]
        limit_per_node = 100
        limit = 5000
        [import.node."r1.example"]
        refuse = true
        [import.node.{KEY}]
        allow = ["10.9.0.0/16"]
        limit = 3
        [import.node.quiet]
        """,
        "meshd.toml",
    ).imports
    nets = {text: values.prefix(text) for text in ("10.0.0.0/8", "fd00::/8", "10.9.0.0/16")}
    overlapping = (values.prefix("10.66.0.0/16"), values.prefix("10.66.6.0/24"))
    allow = nets["10.0.0.0/8"], nets["fd00::/8"]
    assert made == Filters(
        Filter(allow, overlapping, limit=100),
        5000,
        {"r1.example": Filter(refuse=True), KEY: Filter((nets["10.9.0.0/16"],), limit=3)},
    )


def test_a_duplicate_prefix_is_no_mistake() -> None:
    made = config.parse('announce = ["10.1.0.0/24", "10.1.0.0/24"]', "meshd.toml")
    assert made.announce == (values.prefix("10.1.0.0/24"),)


def test_an_advertised_address_has_the_port_of_the_config() -> None:
    made = config.parse('advertise = ["192.0.2.1"]\nport = 7000', "meshd.toml")
    assert made.advertise == (values.advertised("192.0.2.1:7000"),)


def test_ipv6_is_read_bare_and_in_brackets() -> None:
    assert str(values.seed("2001:DB8::1")) == "[2001:db8::1]:6179"
    assert str(values.seed("[2001:db8::1]")) == "[2001:db8::1]:6179"
    assert str(values.seed("[2001:db8::1]:1")) == "[2001:db8::1]:1"


def test_what_the_command_line_adds_must_fit_the_file() -> None:
    made = config.parse('announce = ["10.1.0.0/16"]', "meshd.toml")
    with pytest.raises(UsageError, match="lies inside"):
        made.with_additions((), (values.prefix("10.1.1.0/24"),), ())
    more = made.with_additions((), (values.prefix("10.2.0.0/24"), *made.announce), ())
    assert list(map(str, more.announce)) == ["10.1.0.0/16", "10.2.0.0/24"]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; make a node with `meshd init`"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "latin1.toml").write_bytes(b'nat = "\xe9"')
    with pytest.raises(UsageError, match="is not UTF-8"):
        config.load(tmp_path / "latin1.toml")
    with pytest.raises(UsageError, match="cannot read"):
        config.load(tmp_path)


def test_a_config_without_a_mesh_says_how_to_get_one() -> None:
    with pytest.raises(UsageError, match="authority is not set; run `meshd init` or `meshd join`"):
        config.mesh(Config(), Path("meshd.toml"))


@given(
    st.one_of(
        st.text(),
        st.builds(
            "{} = {}".format,
            st.sampled_from(
                [
                    *config._OPTIONS,
                    *(f"import.{key}" for key in config._IMPORT),
                    *(f"import.node.b.{key}" for key in config._NODE),
                ]
            ),
            st.one_of(
                st.text(),
                st.integers().map(str),
                st.text().map(config._toml),
                st.lists(st.text(alphabet="0123456789abcdef.:/[]%- ")).map(config._toml),
            ),
        ),
    )
)
def test_any_text_is_a_config_or_one_line(text: str) -> None:
    assert complaint(lambda: config.parse(text, "meshd.toml")).isprintable()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "0h", "-1h", "1y", "99999d", "1.5h", "²h"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="write 30m, 24h or 7d"):
        values.duration(text)


def test_a_date_includes_its_day_and_a_time_needs_its_offset() -> None:
    assert values.until("2027-01-31") == 1801440000
    assert values.moment(1801440000) == "2027-02-01 00:00 UTC"
    assert values.until("2027-01-31T12:00+01:00") == 1801393200
    for text in ("2027-01-31T12:00", "2027-02-30", "9999-12-31", "soon", "0001-01-01T00:00Z"):
        with pytest.raises(UsageError, match="write 2027-01-31"):
            values.until(text)


def test_a_time_that_no_calendar_has_can_be_told() -> None:
    assert values.moment(2**63) == "a time after the year 9999"


@given(st.text())
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    for reader in (
        values.prefix,
        values.prefix_or_address,
        values.seed,
        values.advertised,
        values.duration,
        values.until,
    ):
        assert complaint(partial(reader, text)).isprintable()


def test_the_table_of_illumos_is_read_and_its_mistakes_are_named() -> None:
    made = config.parse(
        'nat = "ipnat"\n[illumos]\ninterface = "znic0"\npool = 7\ntools = "/opt/bin"\nfiles = ""',
        "meshd.toml",
    )
    assert made.illumos == Options("znic0", 7, "/opt/bin", "")
    assert "interface" in told('[illumos]\ninterface = "net0:1"')
    assert "illumos.pool" in told("[illumos]\npool = 0")
    assert "illumos.pool" in told('[illumos]\npool = "mesh"')
    assert "absolute" in told('[illumos]\ntools = "bin"')
    assert "did you mean files" in told('[illumos]\nfile = ""')
    assert "write [illumos]" in told("illumos = 3")


def test_what_is_for_illumos_is_refused_elsewhere_and_the_reverse() -> None:
    for name, nat, port, said in (
        ("linux", "ippool", 0, "is for illumos"),
        ("memory", "ipnat", 0, "is for illumos"),
        ("illumos", "masquerade", 0, "not for this system"),
        ("illumos", "auto", 6180, "not for illumos"),
    ):
        assert said in complaint(
            partial(kernel.backend, name, metric=142, nat=nat, tunnel_port=port)
        )


def test_this_systems_kernel_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, name in (("linux", "linux"), ("sunos5", "illumos")):
        monkeypatch.setattr(sys, "platform", platform)
        assert startup.kernel_backend(Config()) == name
    monkeypatch.setattr(sys, "platform", "plan9")
    assert "no kernel backend for plan9" in complaint(partial(startup.kernel_backend, Config()))
