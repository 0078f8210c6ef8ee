"""The files for the next boot say what the kernel holds."""

from __future__ import annotations

from pathlib import Path

from zonehost import FORMS, OWN, PUBLIC, SIX, B, C, Host, state

from meshd.kernel.illumos import blocks


def test_after_a_boot_the_exclusion_is_what_it_was(host: Host) -> None:
    host.reach(state(B, C, SIX))
    host.boot()
    assert host.sources() == [OWN, OWN, PUBLIC]
    host.reach(state(B, C, SIX))
    assert host.leads(B) == {"192.0.2.2"}


def test_what_a_boot_has_loaded_is_ours_to_take_away(host: Host) -> None:
    host.reach(state(B))
    host.reach(state(B, C))  # the base lines of the file have another number than these
    host.boot()
    host.backend.purge()
    assert host.zone.machine.pools == [] or host.zone.machine.pools[0]["nodes"] == []
    assert [rule for rule in host.zone.machine.nat if not rule["tag"]] == []


def test_a_file_that_was_not_there_goes_again_and_one_that_was_empty_stays(
    host: Host, tmp_path: Path
) -> None:
    host.reach(state(B))
    assert host.file().exists()
    host.backend.purge()
    assert not host.file().exists()
    host.file().write_bytes(b"")
    host.start()
    host.reach(state(B))
    host.backend.purge()
    assert host.file().read_bytes() == b""


def test_octets_and_permissions_of_others_survive(host: Host) -> None:
    strange = b"# caf\xe9 \xff\r\n# no newline at the end"
    host.file().write_bytes(strange)
    host.file().chmod(0o640)
    host.reach(state(B))
    assert host.file().read_bytes().endswith(strange)
    assert host.file().stat().st_mode & 0o777 == 0o640
    host.backend.purge()
    assert host.file().read_bytes() == strange


def test_a_file_with_damaged_markers_is_left_alone_and_named(host: Host) -> None:
    wrong = f"{blocks.BEGIN}\nsomething\n"
    host.file().write_text(wrong, encoding="utf-8")
    assert any("not one pair" in reason for reason in host.apply(state(B)).values())
    assert host.file().read_text(encoding="utf-8") == wrong
    host.file().unlink()
    host.reach(state(B))


def test_a_file_that_somebody_changed_between_our_markers_is_written_again(host: Host) -> None:
    host.reach(state(B))
    right = host.file().read_text(encoding="utf-8")
    host.file().write_text(right.replace("10.2.0.0/24", "10.9.0.0/24"), encoding="utf-8")
    assert host.backend.read().problems != ()
    host.reach(state(B))
    assert host.file().read_text(encoding="utf-8") == right


def test_a_pool_that_the_operator_defines_in_the_file_is_not_taken_over(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    theirs = "table role = ipf type = tree number = 13 { 10.9.0.0/24; };\n"
    host.file().write_text(theirs, encoding="utf-8")
    assert any("another number" in reason for reason in host.apply(state(B)).values())
    assert host.file().read_text(encoding="utf-8") == theirs
    host.zone.do("ippool -A -m 14 -t tree")
    host.zone.do("ipf -Fa")
    host.load_rules(14)
    host.start(pool=14)
    host.reach(state(B))


def test_without_a_place_for_files_none_is_written(tmp_path: Path) -> None:
    for form in FORMS:
        host = Host(tmp_path / form, form)
        host.start(files="")
        host.backend.check()
        host.reach(state(B))
        assert list(host.files.iterdir()) == []
