"""What is shipped, and which way imports run."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from meshd.doctor import programs

ROOT = Path(__file__).parents[1]

THIRD_PARTY = {
    "protocol": {"attrs", "cryptography", "msgpack"},
    "meshd": {"attrs", "cryptography", "msgpack", "trio"},
}
"""What each package may import besides the standard library and, one way, the other."""

IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "selectors", "signal", "subprocess", "threading"),
    *("datetime", "sched", "time"),
    *("fileinput", "glob", "io", "os", "pathlib", "shelve", "shutil", "sqlite3", "tempfile"),
    *("logging", "syslog", "warnings"),
    *("http", "select", "socket", "socketserver", "ssl", "urllib"),
}
"""Sockets, clocks, files, logs and tasks: the protocol is given what it needs of them."""


LISTS_RULES = Path("meshd/doctor/programs.py")
"""The one module that starts programs: it lists packet filter rules, for `meshd doctor`."""

PROGRAMS = {"commands", "multiprocessing", "pty", "subprocess"}
"""Modules that start other programs."""

UNPACKERS = {"dill", "marshal", "pickle", "shelve"}
"""Modules that run what the bytes they read tell them to."""

STARTERS = re.compile(
    r"(os|posix)\.(system|popen|fork|forkpty|startfile|exec\w+|spawn\w+|posix_spawn\w*)"
    r"|trio\.(run_process|lowlevel\.open_process)"
    r"|(builtins\.)?(eval|exec|compile|__import__)"
)
"""Calls that start a program, or run text as one."""


def _imports(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which way it runs"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def _imported_by(package: str) -> dict[str, set[str]]:
    files = (ROOT / package).rglob("*.py")
    return {str(path.relative_to(ROOT)): _imports(path) for path in sorted(files)}


def test_the_protocol_knows_nothing_of_the_daemon_and_touches_nothing_of_the_world() -> None:
    allowed = (sys.stdlib_module_names - IMPURE) | THIRD_PARTY["protocol"] | {"protocol"}
    strangers = {path: names - allowed for path, names in _imported_by("protocol").items()}
    assert {path: names for path, names in strangers.items() if names} == {}


def test_the_daemon_imports_the_protocol_and_what_it_declares() -> None:
    allowed = sys.stdlib_module_names | THIRD_PARTY["meshd"] | {"meshd", "protocol"}
    strangers = {path: names - allowed for path, names in _imported_by("meshd").items()}
    assert {path: names for path, names in strangers.items() if names} == {}


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` as it is written, or nothing for what has no such name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def _that_runs_programs(source: str) -> list[str]:
    """What in ``source`` could start a program, or run what it was sent."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found += [name for name in [_dotted(node.func)] if STARTERS.fullmatch(name)]
            found += [f"{word.arg}=" for word in node.keywords if word.arg == "shell"]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if STARTERS.fullmatch(name)]
    return found


ASKING = "meshd/local/asking.py"
"""Runs the operator's own health checks: what the config says, word by word, and nothing else."""


RUNNING = "meshd/kernel/illumos/runner.py"
"""Runs the system's own tools where there is no other way: prefixes, addresses, numbers."""


def test_no_shell_and_no_program_but_health_checks_and_lists_of_rules_is_ever_started() -> None:
    # On Linux routes, nftables and conntrack are spoken to by netlink: nothing that came from a
    # network is ever on a command line.
    for package in ("meshd", "protocol"):
        for path, names in _imported_by(package).items():
            source = (ROOT / path).read_text(encoding="utf-8")
            if path == ASKING:
                assert _that_runs_programs(source) == ["trio.lowlevel.open_process"]
                assert names & UNPACKERS == set()
                continue
            if path == RUNNING:
                assert re.findall(r"subprocess\.(?!TimeoutExpired)(\w+)\(", source) == ["Popen"]
            elif path != str(LISTS_RULES):
                assert names & (PROGRAMS | UNPACKERS) == set(), path
            assert _that_runs_programs(source) == [], path


def test_on_linux_the_daemon_never_loads_what_runs_the_tools_of_illumos() -> None:
    load = (
        "import sys, meshd.daemon, meshd.kernel.linux; from meshd.kernel import backend;"
        " backend('memory', metric=142, nat='auto'); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", load], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "meshd.daemon" in loaded
    assert RUNNING.removesuffix(".py").replace("/", ".") not in loaded


def test_the_daemon_never_loads_what_lists_rules() -> None:
    # `meshd doctor` is a command that an operator gives: the process that may change routes
    # starts nothing.
    load = "import sys, meshd.daemon, meshd.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", load], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "meshd.daemon" in loaded
    assert [name for name in loaded if name.startswith("meshd.doctor")] == []


def test_the_programs_that_list_rules_are_spelt_out_and_change_nothing() -> None:
    tree = ast.parse((ROOT / LISTS_RULES).read_text(encoding="utf-8"))
    (started,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _dotted(node.func).startswith("subprocess.")
    ]
    assert ast.unparse(started.args[0]) == "(path, *command[1:])"
    assert programs.LIST_NFTABLES == ("nft", "-j", "list", "ruleset")
    for command in programs.SAVE.values():
        (program,) = command  # and no argument
        assert re.fullmatch(r"ip6?tables-(nft|legacy)-save", program)
    for file in (ROOT / "meshd/doctor").rglob("*.py"):
        for call in re.findall(r"programs\.listing\((.*)\)", file.read_text(encoding="utf-8")):
            assert re.match(r"programs\.(LIST_NFTABLES|SAVE\[)", call), file


@pytest.mark.parametrize(
    "line",
    [
        "os.system(name)",
        "import os as x; os.popen('ls')",
        "os.execvp('sh', [])",
        "from os import posix_spawn",
        "run(name, shell=True)",
        "await trio.run_process(['ip'])",
        "eval(name)",
    ],
)
def test_what_would_start_a_program_is_noticed(line: str) -> None:
    assert _that_runs_programs(f"async def f():\n    {line}") != []


def test_the_declared_dependencies_are_those_that_are_imported() -> None:
    imported = set[str]().union(*_imported_by("meshd").values(), *_imported_by("protocol").values())
    declared = {_name(line) for line in _project()["dependencies"]}
    assert declared == imported - sys.stdlib_module_names - {"meshd", "protocol"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files in the wheel, built from a copy, since building writes beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("meshd", "protocol", "scripts", "tests", "config"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = source.glob("*.whl")
    with ZipFile(built) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: set[str]) -> None:
    assert {name.partition("/")[0] for name in wheel} == {"meshd", "protocol"}


def test_the_wheel_lacks_no_module(wheel: set[str]) -> None:
    modules = {*_imported_by("meshd"), *_imported_by("protocol")}
    assert modules - wheel == set()


@pytest.mark.parametrize(
    ("file", "extra"), [("requirements.lock", "dev"), ("pictures.lock", "pictures")]
)
def test_the_lock_pins_everything_with_hashes_and_names_no_registry(file: str, extra: str) -> None:
    text = (ROOT / "scripts" / file).read_text(encoding="ascii")
    entries = re.split(r"\n(?=[a-z])", text.strip())
    pinned = {_name(entry) for entry in entries}
    unpinned = [
        entry for entry in entries if not re.match(r"[a-z0-9-]+==\S+ .*\\\n +--hash=sha256:", entry)
    ]
    assert unpinned == []
    assert not re.search(r"://|--index|--find-links| @ ", text)

    project = _project()
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    assert {_name(line) for line in wanted} <= pinned


def _project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9-]+", requirement)
    assert found, requirement
    return found[0].lower()
