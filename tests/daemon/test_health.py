"""Health checks: how answers add up, how each kind is asked, and that none waits for another."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from meshd.kernel.state import Host, Interface
from meshd.local import health
from meshd.local.asking import ask
from meshd.local.check import HEALTHY, Check, Standing
from meshd.local.health import Health
from meshd.log import EventLog
from meshd.values import Announced, announced
from protocol.address import endpoint

NET = announced("10.1.0.0/24")


def standing(answers: str, **check: Any) -> list[bool]:
    """What it is after each answer: ``+`` is good."""
    found = Standing(Check(**check))
    return [(found.note(HEALTHY if a == "+" else "no", 1.0), found.healthy)[1] for a in answers]


def test_it_begins_healthy_and_one_bad_answer_away_from_not_being_so() -> None:
    assert standing("-") == [False]
    assert standing("+---") == [True, True, True, False]


def test_rise_and_fall_count_answers_in_a_row() -> None:
    seen = standing("+--+--+---" + "+-+++", rise=3, fall=3)
    assert seen == [True] * 9 + [False] * 5 + [True]
    assert standing("-+++", rise=1) == [False, True, True, True]
    assert standing("+-+-", fall=1, rise=1) == [True, False, True, False]


def test_a_change_is_told_once_and_keeps_the_last_complaint() -> None:
    found = Standing(Check(fall=1, rise=1))
    assert found.note("exit 1", 5.0)
    assert not found.note("exit 2", 6.0)
    assert (found.reason, found.since, found.asked) == ("exit 2", 5.0, 2)
    assert found.note(HEALTHY, 7.0)
    assert (found.healthy, found.reason, found.since) == (True, "exit 2", 7.0)


# -- asking -----------------------------------------------------------------------------------


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-E", "-c", code)


def nowhere() -> Host:
    return Host()


async def test_a_program_that_exits_with_0_is_healthy() -> None:
    assert await ask(Check(command=("/bin/true",)), nowhere) == HEALTHY


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (("/bin/false",), "exit 1"),
        (program("import sys; sys.exit(7)"), "exit 7"),
        (program("import os; os.kill(os.getpid(), 15)"), "ended by SIGTERM"),
        (("/nonexistent/check",), "No such file or directory"),
        (("/etc",), "Permission denied"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
async def test_any_other_end_of_a_program_is_told(command: tuple[str, ...], answer: str) -> None:
    assert await ask(Check(command=command, timeout=20), nowhere) == answer


async def test_there_is_no_shell_between_and_nothing_to_read(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"import sys; open({str(seen)!r}, 'w').write(repr((sys.argv[1:], sys.stdin.read())))"
    words = ("$HOME", "a b", "; false", "*")
    assert await ask(Check(command=(*program(code), *words), timeout=20), nowhere) == HEALTHY
    assert seen.read_text() == repr((list(words), ""))


async def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, time, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        f"child and open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child}}')\n"
        "time.sleep(600)\n"
    )
    check = Check(command=program(code), timeout=0.1)
    while not (pids.exists() and len(pids.read_text().split()) == 2):  # a busy machine
        check = attrs.evolve(check, timeout=2 * check.timeout)
        assert await ask(check, nowhere) == f"no answer within {check.timeout:g} s"
    for pid in pids.read_text().split():
        with trio.fail_after(20):
            await _end_of(int(pid))


async def _end_of(pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    await trio.lowlevel.wait_readable(process)
    os.close(process)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found


async def test_a_port_that_accepts_is_healthy_and_one_that_refuses_is_not(
    listener: socket.socket,
) -> None:
    where = endpoint(*listener.getsockname())
    assert await ask(Check(tcp=where), nowhere) == HEALTHY
    listener.close()
    assert await ask(Check(tcp=where), nowhere) == "Connection refused"


async def test_a_port_that_does_not_answer_is_unhealthy_in_time(
    listener: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    async def silent(_where: object) -> None:
        await trio.sleep_forever()

    where = endpoint(*listener.getsockname())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshd.local.asking._connect", silent)
        assert await ask(Check(tcp=where, timeout=2.0), nowhere) == "no answer within 2 s"


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        ([Interface("br0", 2, True)], HEALTHY),
        ([Interface("br0", 2, True, carrier=False)], "br0 has no carrier"),
        ([Interface("br0", 2, False)], "br0 is down"),
        ([Interface("br1", 2, True)], "there is no interface br0"),
    ],
)
async def test_an_interface_must_be_up_with_a_carrier(found: list[Interface], answer: str) -> None:
    assert await ask(Check(interface="br0"), lambda: Host(tuple(found))) == answer


# -- the checks of a node -----------------------------------------------------------------------


@attrs.define(eq=False)
class Bench:
    """Checks whose answers a test gives, in virtual time."""

    answers: dict[str, Callable[[], Any]] = attrs.field(factory=dict)
    said: io.StringIO = attrs.field(factory=io.StringIO)
    changes: int = 0
    asked: list[tuple[float, str]] = attrs.field(factory=list)
    health: Health = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        log = EventLog(self.said, "json")
        self.health = Health(log, host=nowhere, changed=self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def ask(self, check: Check, _host: Callable[[], Host]) -> str:
        name = check.command[0]
        self.asked.append((trio.current_time(), name))
        answer = self.answers[name]()
        return answer if isinstance(answer, str) else str(await answer)

    @property
    def events(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.said.getvalue().splitlines()]
        return [{key: each[key] for key in each if key != "time"} for each in found]

    def times(self, name: str) -> list[float]:
        start = self.asked[0][0]
        return [round(when - start, 3) for when, which in self.asked if which == name]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(health, "ask", made.ask)
    return made


def check(name: str, **more: Any) -> Check:
    return Check(command=(name,), **more)


async def run_for(bench: Bench, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await bench.health.run()


async def test_a_check_is_asked_at_once_and_then_at_its_interval(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.answers["a"] = lambda: HEALTHY
    bench.health.want({NET: check("a", interval=5.0)})
    await run_for(bench, 12)
    assert bench.times("a") == [0, 5, 10]
    assert (bench.events, bench.changes, bench.health.unhealthy) == ([], 0, {})


async def test_what_falls_and_rises_is_told_and_gated(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    answers = iter([HEALTHY, "exit 1", "exit 1", "exit 3", "exit 3"] + [HEALTHY] * 9)
    bench.answers["a"] = lambda: next(answers)
    bench.health.want({NET: check("a", interval=1.0)})
    with trio.move_on_after(7.5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.health.run)
            await trio.sleep(4.5)
            _it_fell(bench)
    assert bench.health.unhealthy == {}
    assert [each["event"] for each in bench.events] == ["health-down", "health-up"]
    assert bench.changes == 2


def _it_fell(bench: Bench) -> None:
    assert bench.health.unhealthy == {NET: "unhealthy: exit 3"}
    assert bench.events == [
        {"event": "health-down", "announce": "10.1.0.0/24", "reason": "exit 3: withdrawn"}
    ]
    told = bench.health.told(NET, trio.current_time())
    assert told == {"healthy": False, "since_s": 1.5, "reason": "exit 3", "asked": 5}


async def test_one_that_hangs_keeps_no_other_waiting_and_is_not_asked_twice_at_once(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.answers["a"] = trio.sleep_forever
    bench.answers["b"] = lambda: HEALTHY
    bench.health.want({NET: check("a"), announced("interface:br0"): check("b", interval=1.0)})
    await run_for(bench, 10.5)
    assert len(bench.times("a")) == 1
    assert len(bench.times("b")) == 11


async def test_a_reload_leaves_alone_what_it_does_not_change(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    other = announced("interface:br0")
    bench.answers |= {"a": lambda: "exit 1", "b": lambda: "exit 1", "c": lambda: HEALTHY}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.health.run)
        bench.health.want({NET: check("a"), other: check("b")})
        await trio.sleep(1)
        assert set(bench.health.unhealthy) == {NET, other}
        bench.health.want({NET: check("a"), other: check("c")})
        await trio.sleep(1)
        assert set(bench.health.unhealthy) == {NET}
        bench.health.want({})
        await trio.sleep(60)
        assert bench.health.unhealthy == {}
        assert bench.health.told(NET, 0.0) is None
        nursery.cancel_scope.cancel()
    assert (bench.times("a"), bench.times("b"), bench.times("c")) == ([0], [0], [1])


async def test_what_is_gated_may_go_while_its_check_is_asked(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.answers["a"] = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.health.run)
        for wanted in ({NET: check("a")}, {}, {NET: check("a")}, {}):
            bench.health.want(dict[Announced, Check](wanted))
            await trio.sleep(1)
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


CAPABILITY = """
import os
from pathlib import Path
import trio
from meshd.local.asking import ask, keep_capabilities
from meshd.local.check import Check
from meshd.kernel.state import Host
keep_capabilities()
def mine(): return [l for l in Path("/proc/self/status").read_text().splitlines() if "CapEff" in l]
print(mine()[0].split()[1].endswith("1000"))
command = ("/bin/grep", "-q", "CapEff:.*0000000000000000", "/proc/self/status")
print(repr(trio.run(ask, Check(command=command, timeout=60), Host)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a capability to somebody else")
def test_a_program_does_not_get_the_daemons_capability() -> None:
    as_service = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps +net_admin"
    done = subprocess.run(
        [*as_service.split(), "--ambient-caps", "+net_admin", sys.executable, "-c", CAPABILITY],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["True", "''"], done.stderr


def test_the_tests_leave_no_process_behind() -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
