"""The SMF manifest and its start method, by the rules of the service bundle DTD.

The DTD itself is not ours to ship; what it says of the elements that we use stands in RULES, read
in illumos-gate (usr/src/cmd/svc/dtd/service_bundle.dtd.1).  No SMF has seen the manifest.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from meshd.founding import SERVICE_USER

SMF: Final = Path(__file__).parents[2] / "config/smf"
MANIFEST: Final = SMF / "meshd.xml"
METHOD: Final = SMF / "meshd-start"

ANY: Final = r".*"
BOOLEAN: Final = r"true|false"
GROUPING: Final = r"require_all|require_any|exclude_all|optional_all"
RESTART_ON: Final = r"error|restart|refresh|none"
TYPES: Final = (
    r"count|integer|opaque|host|hostname|net_address_v[46]|time|[au]string|boolean|fmri|uri"
)
LANG: Final = "{http://www.w3.org/XML/1998/namespace}lang"


class Rule(NamedTuple):
    """An element."""

    inside: str
    """Its children in their order: a regular expression over names with a space behind each."""
    required: dict[str, str] = {}  # noqa: RUF012
    """Attributes to what they may say."""
    allowed: dict[str, str] = {}  # noqa: RUF012
    text: bool = False


RULES: Final = {
    "service_bundle": Rule("(service_bundle |service )*", {"type": ANY, "name": ANY}),
    "service": Rule(
        "(create_default_instance )?(single_instance )?(restarter )?(dependency )*(dependent )*"
        "(method_context )?(exec_method )*(property_group )*(instance )*(stability )?(template )?",
        {"name": ANY, "version": r"\d+", "type": "service|restarter|milestone"},
    ),
    "create_default_instance": Rule("", {"enabled": BOOLEAN}),
    "single_instance": Rule(""),
    "dependency": Rule(
        "(service_fmri )*(stability )?(propval |property )*",
        {"name": ANY, "grouping": GROUPING, "restart_on": RESTART_ON, "type": ANY},
        {"delete": BOOLEAN},
    ),
    "service_fmri": Rule("", {"value": r"svc:/[a-z/]+:default"}),
    "method_context": Rule(
        "(method_profile |method_credential )?(method_environment )?",
        {},
        {"working_directory": ANY, "project": ANY, "resource_pool": ANY},
    ),
    "method_credential": Rule(
        "",
        {"user": ANY},
        {"group": ANY, "supp_groups": ANY, "privileges": ANY, "limit_privileges": ANY},
    ),
    "method_environment": Rule("(envvar )+"),
    "envvar": Rule("", {"name": ANY, "value": ANY}),
    "exec_method": Rule(
        "(method_context )?(stability )?(propval |property )*",
        {"type": "method|monitor", "name": ANY, "exec": ANY, "timeout_seconds": r"-?\d+"},
        {"delete": BOOLEAN},
    ),
    "property_group": Rule(
        "(stability )?(propval |property )*", {"name": ANY, "type": ANY}, {"delete": BOOLEAN}
    ),
    "propval": Rule("", {"name": ANY, "type": TYPES, "value": ANY}, {"override": BOOLEAN}),
    "stability": Rule("", {"value": "Standard|Stable|Evolving|Unstable|External|Obsolete"}),
    "template": Rule("common_name (description )?(documentation )?(pg_pattern )*"),
    "common_name": Rule("(loctext )+"),
    "description": Rule("(loctext )+"),
    "documentation": Rule("(doc_link |manpage )*"),
    "doc_link": Rule("", {"name": ANY, "uri": ANY}),
    "loctext": Rule("", {LANG: ANY}, text=True),
}


def faults(element: Element) -> list[str]:
    """How ``element`` breaks the rules, and those in it."""
    rule = RULES.get(element.tag)
    if rule is None:
        return [f"{element.tag}: unknown"]
    found = []
    children = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(rule.inside, children):
        found.append(f"{element.tag}: {children}")
    found += [f"{element.tag}: no {name}" for name in rule.required.keys() - element.keys()]
    for name, value in element.items():
        allowed = (rule.required | rule.allowed).get(name)
        if allowed is None or not re.fullmatch(allowed, value, re.DOTALL):
            found.append(f'{element.tag}: {name}="{value}"')
    if (element.text or "").strip() and not rule.text:
        found.append(f"{element.tag}: text")
    return found + [fault for child in element for fault in faults(child)]


@pytest.fixture(scope="module")
def service() -> Element:
    found = ElementTree.parse(MANIFEST).getroot().find("service")
    assert found is not None
    return found


def only(element: Element, path: str) -> Element:
    (found,) = element.findall(path)
    return found


def test_the_manifest_keeps_the_rules_of_its_dtd() -> None:
    assert faults(ElementTree.parse(MANIFEST).getroot()) == []
    text = MANIFEST.read_text(encoding="ascii")
    assert '"/usr/share/lib/xml/dtd/service_bundle.dtd.1"' in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<single_instance/>", "<single_instance><x/></single_instance>"),
        ('restart_on="refresh"', 'restart_on="always"'),
        ('type="service" version="1"', 'type="service"'),
        ("<single_instance/>", ""),
        ('enabled="false"', 'enabled="no"'),
        ('<stability value="Evolving"/>', ""),
    ],
)
def test_a_broken_rule_is_noticed(before: str, after: str) -> None:
    text = MANIFEST.read_text(encoding="ascii")
    assert before in text
    if after == "":  # in the wrong place
        text = text.replace("</service>", before + "</service>")
    root = ElementTree.fromstring(text.replace(before, after or before, 1))
    assert faults(root) != []


def test_it_runs_as_a_user_of_its_own_with_one_privilege(service: Element) -> None:
    credential = only(service, "method_context/method_credential")
    assert credential.get("user") == credential.get("group") == SERVICE_USER
    assert credential.get("privileges") == "basic,sys_ip_config"
    assert credential.get("limit_privileges") == "basic,sys_ip_config"


def test_it_is_refreshed_by_sighup_and_stopped_by_sigterm(service: Element) -> None:
    methods = {each.get("name"): each.get("exec") for each in service.findall("exec_method")}
    assert methods["refresh"] == ":kill -HUP"
    assert methods["stop"] == ":kill"
    assert Path(str(methods["start"])).name == METHOD.name
    assert os.access(METHOD, os.X_OK)
    duration = only(service, "property_group[@name='startd']/propval[@name='duration']")
    assert duration.get("value") == "child"


def test_it_looks_again_when_the_packet_filter_is_refreshed(service: Element) -> None:
    ipfilter = only(service, "dependency[@name='ipfilter']")
    assert (ipfilter.get("grouping"), ipfilter.get("restart_on")) == ("optional_all", "refresh")
    others = [each for each in service.findall("dependency") if each is not ipfilter]
    assert {each.get("restart_on") for each in others} == {"none"}


# -- the start method ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _hangups() -> Iterator[None]:
    """Signals are as SMF leaves them: what is ignored at a shell's start it cannot trap, and who
    runs the tests behind nohup(1) has SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def started(tmp_path: Path, script: str, allowed: bool = True) -> subprocess.Popen[str]:
    """The method with a daemon that is ``script``, and an svcadm that may say no."""
    for name, text in (
        ("meshd", script),
        ("svcadm", f'echo "svcadm $*"; exit {0 if allowed else 1}'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
    return subprocess.Popen(
        [METHOD],
        env={
            "PATH": os.defpath,
            "MESHD": str(tmp_path / "meshd"),
            "SVCADM": str(tmp_path / "svcadm"),
            "SMF_FMRI": "svc:/network/meshd:default",
        },
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(("ends", "told"), [(2, 96), (1, 1), (70, 1)])
def test_an_exit_code_is_told_in_the_words_of_smf(tmp_path: Path, ends: int, told: int) -> None:
    method = started(tmp_path, f'test "$1" = run && exit {ends}')
    method.communicate(timeout=20)
    assert method.returncode == told


def test_a_daemon_that_dies_of_a_signal_is_started_again(tmp_path: Path) -> None:
    method = started(tmp_path, "kill -KILL $$")
    method.communicate(timeout=20)
    assert method.returncode == 1


def test_a_node_that_has_left_is_not_started_again(tmp_path: Path) -> None:
    method = started(tmp_path, "exit 0")
    out, _ = method.communicate(timeout=20)
    assert method.returncode == 0
    assert "svcadm disable -t svc:/network/meshd:default" in out


def test_who_may_not_disable_the_service_leaves_it_to_maintenance(tmp_path: Path) -> None:
    method = started(tmp_path, "exit 0", allowed=False)
    out, _ = method.communicate(timeout=20)
    assert method.returncode == 96
    assert "usermod -A solaris.smf.manage.meshd meshd" in out


def test_a_stop_is_a_stop_and_a_refresh_goes_to_the_daemon(tmp_path: Path) -> None:
    log = tmp_path / "log"
    method = started(
        tmp_path,
        f"trap 'echo refreshed >>{log}' HUP\ntrap 'echo stopped >>{log}; exit 0' TERM\n"
        f"echo up >>{log}\nwhile :; do sleep 0.05; done",
    )

    def until(line: str) -> None:
        for _ in range(400):
            if log.exists() and line in log.read_text():
                return
            time.sleep(0.05)
        pytest.fail(f"no {line}")

    until("up")
    os.killpg(method.pid, signal.SIGHUP)  # as SMF does: to all of the service
    until("refreshed")
    assert method.poll() is None
    os.killpg(method.pid, signal.SIGTERM)
    out, _ = method.communicate(timeout=20)
    assert method.returncode == 0
    assert "svcadm" not in out
    until("stopped")


def test_without_a_daemon_it_is_fatal(tmp_path: Path) -> None:
    done = subprocess.run(
        [METHOD], env={"MESHD": str(tmp_path / "none")}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "install meshd there" in done.stdout) == (95, True)
