"""Which name servers resolv.conf names, and those behind systemd-resolved's stub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshd.resolver import MAX_FILE, resolvers


def read(tmp_path: Path, conf: str | bytes, uplinks: str | None = None) -> list[str]:
    etc, run = tmp_path / "resolv.conf", tmp_path / "uplinks.conf"
    etc.write_bytes(conf if isinstance(conf, bytes) else conf.encode())
    if uplinks is not None:
        run.write_text(uplinks)
    return list(map(str, resolvers(etc, run)))


def test_name_servers_are_read_in_order_each_once(tmp_path: Path) -> None:
    text = (
        "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch example.net\n"
        "nameserver 192.0.2.53\n  nameserver\t2001:db8::53  # ours\nnameserver 192.0.2.53\n"
        "nameserver fe80::1%eth0\noptions edns0\n"
    )
    assert read(tmp_path, text) == ["192.0.2.53", "2001:db8::53", "fe80::1"]


@pytest.mark.parametrize("stub", ["127.0.0.53", "127.0.0.54"])
def test_the_servers_behind_the_stub_are_found(tmp_path: Path, stub: str) -> None:
    uplinks = "nameserver 198.51.100.53\nnameserver 2001:db8::53\n"
    assert read(tmp_path, f"nameserver {stub}\n", uplinks) == ["198.51.100.53", "2001:db8::53"]


def test_without_the_stub_that_file_is_not_asked_and_loopback_does_not_matter(
    tmp_path: Path,
) -> None:
    uplinks = "nameserver 198.51.100.53\n"
    assert read(tmp_path, "nameserver 127.0.0.1\nnameserver ::1\n", uplinks) == []
    assert read(tmp_path, "nameserver 192.0.2.53\n", uplinks) == ["192.0.2.53"]


@pytest.mark.parametrize(
    "conf", ["", "nameserver\n", "nameserver dns.example\n", b"\xff\xfe\0nameserver 1\n", "x" * 99]
)
def test_what_names_no_server_is_none(tmp_path: Path, conf: str | bytes) -> None:
    assert read(tmp_path, conf) == []


def test_a_file_is_read_again_when_it_was_rewritten_in_place(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    for second in range(3):
        conf.write_text(f"nameserver 192.0.2.{second}\n")
        os.utime(conf, (second, second))
        assert list(map(str, resolvers(conf, conf))) == [f"192.0.2.{second}"]
    conf.unlink()
    assert resolvers(conf, conf) == ()


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert resolvers(tmp_path / "none", tmp_path / "none") == ()
    assert read(tmp_path, "nameserver 127.0.0.53\n") == []


def test_of_a_file_without_end_only_so_much_is_read(tmp_path: Path) -> None:
    late = "#" * MAX_FILE + "\nnameserver 192.0.2.53\n"
    assert read(tmp_path, late) == []
