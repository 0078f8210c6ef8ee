"""trio on the stand-in for epoll, where Python has neither that nor kqueue.

Each test is a process of its own, for epoll has to be gone before trio is imported.  The whole of
tests/daemon runs there too, and so does a mesh (tests/kernel/test_illumos.py).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from meshd import polling

ROOT = Path(__file__).parents[2]
WITHOUT = ROOT / "tests/withoutepoll.py"


def in_a_python_without_epoll(program: str) -> str:
    """What ``program`` prints; it must end well."""
    done = subprocess.run(
        [sys.executable, WITHOUT, "--sunos", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


STREAMS = """
import trio

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

async def talk(port, number, done):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        for turn in range(20):
            said = f"{number} {turn} ".encode() * 500
            with trio.CancelScope() as scope:
                if turn % 7 == 3:
                    scope.deadline = trio.current_time()
                await trio.sleep_forever() if turn % 7 == 3 else await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, said)
                heard = b""
                while len(heard) < len(said):
                    heard += await stream.receive_some()
            assert heard == said
    done.append(number)

async def main():
    done = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, echo, 0)
            port = listeners[0].socket.getsockname()[1]
            async with trio.open_nursery() as talking:
                for number in range(50):
                    talking.start_soon(talk, port, number, done)
            nursery.cancel_scope.cancel()
    print(trio.lowlevel.current_statistics().io_statistics.backend, len(done))

trio.run(main)
"""


def test_fifty_streams_talk_both_ways_and_are_cancelled_in_between() -> None:
    assert in_a_python_without_epoll(STREAMS) == "epoll 50\n"


WAITS = """
import os, socket, trio
from meshd.polling import Epoll

poll, rounds = Epoll.poll, []

def counted(*arguments):
    rounds.append(arguments)
    return poll(*arguments)

Epoll.poll = counted

async def main():
    # One task reads and one writes on the same socket; each wakes for itself.
    left, right = socket.socketpair()
    for each in (left, right):
        each.setblocking(False)
    order = []

    async def reader():
        await trio.lowlevel.wait_readable(left)
        order.append("read")

    async def writer():
        await trio.lowlevel.wait_writable(left)
        order.append("written")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(writer)
            await trio.testing.wait_all_tasks_blocked(0.01)
            right.send(b"x")
        # A wait that is cancelled leaves nothing behind.
        left.recv(1)
        for _ in range(3):
            with trio.move_on_after(0.01) as scope:
                await trio.lowlevel.wait_readable(left)
            assert scope.cancelled_caught
        # A hang-up wakes who reads, and then nobody; nor whom it comes too late for.
        right.close()
        await trio.lowlevel.wait_readable(left)
        late, gone = socket.socketpair()
        with trio.move_on_after(0.01):
            await trio.lowlevel.wait_readable(late)
        gone.close()
        rounds.clear()
        await trio.sleep(0.1)
        assert len(rounds) == 1, len(rounds)  # no loop that eats the processor
        # A descriptor that is none is refused at once.
        try:
            await trio.lowlevel.wait_readable(10_000)
        except OSError as error:
            order.append(error.errno)
        # Closing wakes who waits.
        reading, writing = os.pipe()

        async def closes():
            try:
                await trio.lowlevel.wait_readable(reading)
            except trio.ClosedResourceError:
                order.append("closed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(closes)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.notify_closing(reading)
        os.close(reading)
        # The number is used again, for something else.
        again, other = os.pipe()
        assert again == reading
        os.write(other, b"x")
        await trio.lowlevel.wait_readable(again)
        # A thread wakes the loop.
        assert await trio.to_thread.run_sync(lambda: 7) == 7
    print(*order)

import trio.testing
trio.run(main)
"""


def test_waiting_is_as_it_is_with_epoll() -> None:
    assert in_a_python_without_epoll(WAITS) == "written read 9 closed\n"


CHILDREN = """
import os, signal, sys, trio

async def main():
    assert not hasattr(os, "pidfd_open")
    with trio.fail_after(60):
        done = await trio.run_process(["/bin/cat"], stdin=b"through", capture_stdout=True)
        assert done.stdout == b"through"
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(trio.run_process, ["/bin/true"])
        with trio.move_on_after(0.2) as scope:
            await trio.run_process(["/bin/sleep", "60"])
        assert scope.cancelled_caught
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            async for number in signals:
                print(signal.Signals(number).name, sys.platform)
                break

trio.run(main)
"""


def test_children_are_waited_for_and_signals_heard() -> None:
    assert in_a_python_without_epoll(CHILDREN) == "SIGHUP sunos5\n"


def test_what_looks_at_linux_says_so_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, WITHOUT, "--sunos", "meshd", "--dir", tmp_path, "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("meshd: doctor looks at Linux")


def test_only_trio_itself_is_loaded_under_another_systems_name() -> None:
    """Whatever of the standard library looks at ``sys.platform`` was loaded before."""
    program = """
import sys
class Watch:
    def find_spec(self, name, path, target=None):
        if sys.platform == "linux":
            lent.append(name)
lent = []
import select
for name in [name for name in dir(select) if name.startswith(("epoll", "EPOLL"))]:
    delattr(select, name)
sys.platform = "sunos5"
import meshd
sys.meta_path.insert(0, Watch())
import trio
assert sys.platform == "sunos5"
wrong = []
for name in lent:
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    if file.endswith(".py") and "site-packages" not in file:
        if "sys.platform" in open(file, encoding="utf-8").read():
            wrong.append(name)
print(len(lent) > 50, wrong)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True []\n", "")


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="about a Python that has epoll")
def test_where_there_is_epoll_nothing_is_touched() -> None:
    epoll, finders = select.epoll, list(sys.meta_path)
    polling.stand_in()
    assert select.epoll is epoll
    assert sys.meta_path == finders


def test_a_descriptor_closed_behind_our_back_is_forgotten() -> None:
    epoll = polling.Epoll()
    reading, writing = os.pipe()
    epoll.register(reading, select.POLLIN)
    os.close(reading)
    assert epoll.poll(0, 1) == []
    with pytest.raises(FileNotFoundError):
        epoll.unregister(reading)
    with pytest.raises(OSError, match="Bad file"):
        epoll.register(reading, select.POLLIN)
    os.close(writing)


def test_what_is_told_once_is_not_told_again_until_asked_again() -> None:
    epoll = polling.Epoll()
    reading, writing = os.pipe()
    epoll.register(reading, select.POLLIN | polling.ONESHOT)
    assert epoll.poll(0, 1) == []
    os.write(writing, b"x")
    assert epoll.poll(0, 1) == [(reading, select.POLLIN)]
    assert epoll.poll(0, 1) == []
    epoll.modify(reading, select.POLLIN | polling.ONESHOT)
    assert epoll.poll(0, 1) == [(reading, select.POLLIN)]
    with pytest.raises(FileExistsError):
        epoll.register(reading, select.POLLIN)
    with pytest.raises(FileNotFoundError):
        epoll.modify(writing, select.POLLOUT)
    # Hung up, and nobody asks: nothing is told, though poll would.
    os.close(writing)
    epoll.modify(reading, polling.ONESHOT)
    assert epoll.poll(0, 1) == []
    epoll.close()
    os.close(reading)


def test_the_daemons_own_tests_pass_without_epoll() -> None:
    """A part of them; `python tests/withoutepoll.py -m pytest tests/daemon` runs all."""
    units = ("udp", "control", "health", "reconciler", "acting")
    done = subprocess.run(
        [sys.executable, WITHOUT, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "-m", "not kernel", *(ROOT / f"tests/daemon/test_{unit}.py" for unit in units)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
