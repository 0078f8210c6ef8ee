"""``scripts/bench`` itself: three routers, meshd and BIRD side by side; and one interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

from benchmark.comparison.stage import Stage
from benchmark.holdings import Holdings, KernelWatch, key
from benchmark.systems import SYSTEMS
from netlab import Lab, until
from netlab.lab import labs

SCRIPTS = Path(__file__).parents[2] / "scripts"

NET = IPv4Network("10.64.0.0/28")


def bench(*words: str) -> subprocess.Popen[str]:
    """As ``scripts/bench`` runs it, behind the set-up."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    command = [sys.executable, "-m", "benchmark", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def left_by(pid: int, before: Sequence[Path]) -> list[str]:
    """Namespaces and files of a benchmark that has ended; no process outlives its namespace."""
    made = [path.name for path in temporary() if path not in before]
    return [name for name in labs() if name == f"bench{pid}"] + made


def temporary() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("meshd-bench-*"))


def test_an_announcement_is_measured_on_meshd_and_bird_side_by_side(tmp_path: Path) -> None:
    before = temporary()
    words = ["--scenario", "announce", "--systems", "bird,meshd,floor", "--nodes", "3"]
    file = tmp_path / "kept.jsonl"
    running = bench(*words, "--runs", "1", "--json", "--into", str(file))
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    took, spent = json.loads(out)["results"]
    assert (took["scenario"], took["measure"], took["unit"]) == ("announce", "", "s")
    assert (spent["scenario"], spent["unit"]) == ("announce", "ms")
    assert list(took["systems"]) == ["bird", "meshd", "floor"]
    assert list(spent["systems"]) == ["bird", "meshd"]
    for row in (took, spent):
        assert row["nodes"] == 3
        for name, cell in row["systems"].items():
            assert cell["notes"] == [], name
            assert 0 < cell["median"] < 60
    assert json.loads(out)["about"]["systems"]["bird"]["version"].startswith("BIRD")
    assert len(file.read_text().splitlines()) == 4
    assert "left" in err
    assert left_by(running.pid, before) == []


def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    before = temporary()
    words = ["--scenario", "announce,idle", "--systems", "bird", "--nodes", "3", "--runs", "1"]
    file = tmp_path / "kept.jsonl"
    running = bench(*words, "--into", str(file))
    try:
        until(lambda: file.exists() and '"sample"' in file.read_text(), 60, "it has measured")
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGINT)  # nor does one who cannot wait
        out, _ = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "| announce (s) | 3 |" in out
    assert left_by(running.pid, before) == []


def test_a_prefix_is_held_while_any_route_of_the_system_leads_there(tmp_path: Path) -> None:
    with Lab(2, name=f"held{os.getpid()}", nat=("none",)) as lab:
        router = lab.router(1)
        with KernelWatch({1: router}, 142) as watch:
            holdings = Holdings(watch, [1])

            marks = iter(IPv4Network("10.65.0.0/24").subnets(new_prefix=28))

            def then(line: str) -> bool:
                """Whether it is held after this, and one change more that is waited for."""
                mark = next(marks)
                expected = holdings.expect({1: {key(mark)}})
                router.configure([line, f"route add {mark} via 192.0.2.2 proto 142"])
                assert expected.wait(5).done
                return key(NET) in holdings.held[1]

            there = f"{NET} via 192.0.2.2"
            assert not then(f"route add {there} proto static metric 1")
            assert not then(f"route add unreachable {NET} proto 142 metric 9")
            assert then(f"route add {there} proto 142 metric 2")
            assert then(f"route add {there} proto 142 metric 3")
            assert then(f"route del {there} proto 142 metric 2")
            assert not then(f"route del {there} proto 142 metric 3")
            assert [net for _, _, net in holdings.losses] == [key(NET)]


def test_loss_is_made_and_counted_by_the_kernels(tmp_path: Path) -> None:
    with Stage(SYSTEMS["babeld"], 2, tmp_path, 10, print) as stage:
        assert stage.loss_seen() is None
        stage.set_loss(50)
        near, far = stage.lab.zones
        count = ["ping", "-q", "-c", "300", "-i", "0.002", "-W", "1", str(far.uplink4.ip)]
        near.router.run(count, check=False)
        seen = stage.loss_seen()
    assert seen is not None
    assert 35 < seen < 65
