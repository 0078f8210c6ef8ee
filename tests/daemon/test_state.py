"""The state directory on a real file system: keys, locks, whole files, sequences."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import records, values
from meshd.errors import StateError, UsageError
from meshd.files import create_file
from meshd.sequence import AHEAD, RENEW_S, RESERVE, Sequence
from meshd.state import NODE_KEY, RuntimeChanges, StateDirectory, key_file
from protocol.address import Prefix
from protocol.identity import Identity

IDENTITY = Identity.from_secret(bytes(range(32)))
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change a file's owner")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    path = tmp_path / "state"
    path.mkdir(0o700)
    create_file(path / NODE_KEY, key_file(IDENTITY), 0o600)
    return StateDirectory.open(path)


def told(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        StateDirectory.open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- keys ---------------------------------------------------------------------------------


def test_a_key_file_holds_its_secret_in_hex(state: StateDirectory) -> None:
    assert state.read_key(NODE_KEY).secret == IDENTITY.secret
    assert (state.path / NODE_KEY).read_text() == bytes(range(32)).hex() + "\n"


@pytest.mark.parametrize("name", ["node.key", "authority.key", "authority-next.key"])
def test_every_key_file_present_is_checked_at_start(state: StateDirectory, name: str) -> None:
    path = state.path / name
    path.write_bytes(key_file(IDENTITY))
    path.chmod(0o644)
    assert told(state.path) == f"{path} has mode 0644, not 0600; run: chmod 600 {path}"
    path.chmod(0o600)
    assert StateDirectory.open(state.path) == state


def test_a_symbolic_link_is_no_key_file(state: StateDirectory) -> None:
    key = state.path / NODE_KEY
    key.rename(state.path / "elsewhere")
    key.symlink_to("elsewhere")
    assert "is a symbolic link; put the key file itself there" in told(state.path)


def test_a_dangling_link_is_no_key_file(state: StateDirectory) -> None:
    (state.path / "authority.key").symlink_to("nowhere")
    assert "is a symbolic link" in told(state.path)


def test_a_fifo_is_no_key_file_and_is_not_waited_for(state: StateDirectory) -> None:
    key = state.path / NODE_KEY
    key.unlink()
    os.mkfifo(key, 0o600)
    assert "is not a regular file" in told(state.path)


def test_a_directory_is_no_key_file(state: StateDirectory) -> None:
    (state.path / "authority.key").mkdir(0o600)
    assert "is not a regular file" in told(state.path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        key_file(IDENTITY)[:40],
        key_file(IDENTITY)[:-1],
        key_file(IDENTITY) + b"\n",
        key_file(IDENTITY) * 1000,
        bytes(32),
        b"g" * 64 + b"\n",
    ],
)
def test_a_key_file_of_the_wrong_length_or_letters_is_refused(
    state: StateDirectory, content: bytes
) -> None:
    (state.path / NODE_KEY).write_bytes(content)
    assert "holds no key (65 bytes: 64 hex digits and a newline); restore it" in told(state.path)


@AS_ROOT
def test_a_key_file_of_another_owner_is_refused(state: StateDirectory) -> None:
    os.chown(state.path / NODE_KEY, 1234, 1234)
    assert "belongs to user 1234; run: chown 0 " in told(state.path)


@AS_ROOT
def test_root_may_work_for_the_owner_of_the_directory_and_leaves_him_his_files(
    state: StateDirectory,
) -> None:
    os.chown(state.path, 1234, 1235)
    os.chown(state.path / NODE_KEY, 1234, 1235)
    StateDirectory.open(state.path).write_snapshot([b"one"])
    found = (state.path / "snapshot").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 1235, 0o600)


def test_a_directory_that_others_can_write_is_refused(state: StateDirectory) -> None:
    state.path.chmod(0o770)
    assert told(state.path).endswith(f"(mode 0770); run: chmod 700 {state.path}")


def test_a_directory_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    assert "does not exist; make a node with `meshd init`" in told(tmp_path / "none")
    (tmp_path / "file").touch()
    assert "is not a directory" in told(tmp_path / "file")


# -- files are written whole or not at all --------------------------------------------------


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(state: StateDirectory) -> None:
    state.write("sequence", b"1\n")
    state.write("sequence", b"2\n")
    assert state.read("sequence") == b"2\n"
    assert sorted(os.listdir(state.path)) == [NODE_KEY, "sequence"]
    assert (state.path / "sequence").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_when_any_step_fails_the_old_file_stands(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    state.write("sequence", b"1\n")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StateError, match="sequence: No space left on device; make room"):
        state.write("sequence", b"2\n")
    monkeypatch.undo()
    assert state.read("sequence") == b"1\n"
    assert sorted(os.listdir(state.path)) == [NODE_KEY, "sequence"]


def test_a_key_is_never_overwritten(state: StateDirectory) -> None:
    with pytest.raises(StateError, match="File exists; move it away first"):
        create_file(state.path / NODE_KEY, b"other", 0o600)
    assert state.read_key(NODE_KEY).secret == IDENTITY.secret
    assert os.listdir(state.path) == [NODE_KEY]


def test_a_full_disk_is_noticed_at_start(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.check_writable()
    assert os.listdir(state.path) == [NODE_KEY]

    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StateError, match="make the file system writable"):
        state.check_writable()


# -- snapshot and grant ---------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300)))
def test_records_come_back_as_they_were(listed: list[bytes]) -> None:
    assert records.load(records.dump(listed)) == tuple(listed)


def test_every_flipped_bit_of_records_is_noticed() -> None:
    content = records.dump([b"", b"abc"])
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(records.Damaged):
            records.load(bytes(flipped))


@given(st.binary(max_size=100))
def test_any_other_bytes_are_no_records(data: bytes) -> None:
    with pytest.raises(records.Damaged):
        records.load(data)


def test_a_damaged_snapshot_is_set_aside_with_a_warning(state: StateDirectory) -> None:
    warnings: list[str] = []
    assert state.take_snapshot(warnings.append) == ()
    state.write_snapshot([b"one", b"two"])
    assert state.take_snapshot(warnings.append) == (b"one", b"two")
    assert not warnings
    path = state.path / "snapshot"
    path.write_bytes(path.read_bytes()[:-1])
    assert state.take_snapshot(warnings.append) == ()
    aside = state.path / "snapshot.damaged"
    assert warnings == [f"{path} is damaged (its checksum is wrong); set aside as {aside}"]
    assert aside.exists()
    assert not path.exists()


def test_the_own_grant_survives_a_lost_snapshot(state: StateDirectory) -> None:
    with pytest.raises(UsageError, match="grant does not exist; ask for a new invitation"):
        state.read_grant()
    state.write("grant", records.dump([b"raw"]))
    assert state.read_grant() == (b"raw",)
    state.write_grant(b"raw", b"who made its authority")
    assert state.read_grant() == (b"raw", b"who made its authority")
    state.write_grant(b"raw", None)
    assert state.read_grant() == (b"raw",)
    for damage in (b"", records.dump([]), records.dump([b"a", b"b", b"c"])):
        (state.path / "grant").write_bytes(damage)
        with pytest.raises(UsageError, match="grant is damaged"):
            state.read_grant()


# -- what was announced at run time -----------------------------------------------------------

A, B, C = map(values.prefix, ("10.1.0.0/24", "10.2.0.0/24", "fd00:3::/64"))


def test_announce_and_withdraw_are_kept_beside_the_config(state: StateDirectory) -> None:
    assert state.read_changes() == RuntimeChanges()
    state.write_changes(RuntimeChanges().announce([B, C]).withdraw([A], [A]))
    assert (state.path / "announced").read_text() == "+10.2.0.0/24\n+fd00:3::/64\n-10.1.0.0/24\n"
    assert state.read_changes().apply([A]) == (B, C)


def test_the_last_word_on_a_prefix_counts() -> None:
    assert RuntimeChanges().withdraw([A], [A]).announce([A]).apply([A]) == (A,)
    assert RuntimeChanges().announce([B]).withdraw([B], [A]).apply([A]) == (A,)
    assert RuntimeChanges().announce([B]).announce([B]).apply([B, A]) == (B, A)


def test_a_withdrawal_ends_with_the_configs_line_it_overruled() -> None:
    changes = RuntimeChanges().withdraw([A, B], [A, B]).announce([C])
    assert changes.settle([A, C]) == RuntimeChanges((), (A,))


def test_what_the_config_never_named_leaves_no_trace_when_it_is_withdrawn() -> None:
    assert RuntimeChanges().announce([B]).withdraw([B], [A]) == RuntimeChanges()


def test_a_thousand_at_once_are_compared_by_the_thousand_and_not_by_the_million(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = [values.prefix(f"10.{number >> 8}.{number & 255}.0/24") for number in range(1000)]
    compared = 0
    equal = Prefix.__eq__

    def counting(one: Prefix, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(one, other)

    again = [Prefix.parse(str(prefix)) for prefix in many]  # as a command brings them
    monkeypatch.setattr(Prefix, "__eq__", counting)
    changes = RuntimeChanges().announce(many)
    assert len(changes.apply([])) == 1000
    assert changes.withdraw(again, []).apply([]) == ()
    assert RuntimeChanges().withdraw(again, many).apply(many) == ()
    assert RuntimeChanges().withdraw(again, many).announce(many).apply([]) == tuple(many)
    assert compared < 30 * len(many)


def test_an_overlap_with_the_config_is_refused() -> None:
    with pytest.raises(UsageError, match=r"10\.1\.0\.0/24 lies inside 10\.0\.0\.0/8"):
        RuntimeChanges().announce([values.prefix("10.0.0.0/8")]).apply([A])


@pytest.mark.parametrize("content", [b"10.1.0.0/24\n", b"+10.1.0.1/24\n", b"+\xff\n", b"+\n"])
def test_a_damaged_list_of_announcements_is_one_line(state: StateDirectory, content: bytes) -> None:
    (state.path / "announced").write_bytes(content)
    with pytest.raises(UsageError, match=r"announced is damaged .*; mend the line, or remove"):
        state.read_changes()


# -- one daemon a directory ---------------------------------------------------------------------


def test_a_second_daemon_on_the_directory_is_told_the_firsts_pid(state: StateDirectory) -> None:
    lock = state.lock(state.path.parent)
    said = f"another meshd (pid {os.getpid()}) runs on {state.path.parent}"
    with pytest.raises(UsageError) as caught:
        state.lock(state.path.parent)
    assert str(caught.value) == said
    lock.release()
    state.lock(state.path.parent).release()


def test_a_killed_daemon_leaves_no_lock(state: StateDirectory) -> None:
    program = (
        "import os, pathlib, sys; from meshd.state import StateDirectory;"
        " lock = StateDirectory(pathlib.Path(sys.argv[1])).lock(pathlib.Path('x'));"
        " os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(state.path)], check=False)
    assert ended.returncode == -9
    state.lock(state.path).release()


# -- sequence -------------------------------------------------------------------------------------


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_sequence_is_the_clock_in_ms_and_rises_faster_than_it(state: StateDirectory) -> None:
    clock = Clock()
    sequence = Sequence.load(state, clock)
    assert [sequence.next() for _ in range(3)] == [1_800_000_000_000 + n for n in range(3)]
    clock.now += 5
    assert sequence.next() == 1_800_000_005_000


def test_nothing_is_handed_out_that_is_not_reserved_on_disk(state: StateDirectory) -> None:
    sequence = Sequence.load(state, Clock())
    for _ in range(3 * RESERVE):
        value = sequence.next()
        assert value <= int(state.read("sequence") or 0)


def test_a_write_is_rare(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    replace = os.replace

    def count(old: str, new: Path) -> None:
        written.append(new)
        replace(old, new)

    monkeypatch.setattr(os, "replace", count)
    sequence = Sequence.load(state, Clock())
    for _ in range(RESERVE):
        sequence.next()
    assert len(written) == 1


def test_no_write_is_waited_for_while_what_is_reserved_is_renewed_in_time(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    sequence = Sequence.load(state, clock)
    sequence.next()
    write = StateDirectory.write
    for _ in range(100):
        clock.now += RENEW_S
        with monkeypatch.context() as patch:
            patch.setattr(StateDirectory, "write", None)
            assert sequence.next() == clock.now * 1000
        assert StateDirectory.write is write
        sequence.renew()


def test_restarts_again_and_again_do_not_run_away_from_the_clock(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    clock, restarts = Clock(), 1000
    for _ in range(restarts):
        clock.now += RESERVE / 1000
        used = Sequence.load(state, clock).next()
    assert used <= clock.now * 1000 + AHEAD + restarts


def test_a_restart_goes_on_above_everything_used_also_with_a_clock_set_back(
    state: StateDirectory,
) -> None:
    clock = Clock()
    used = Sequence.load(state, clock).next()
    clock.now = 0.0
    again = Sequence.load(state, clock)
    assert again.next() > used
    assert again.next() > used + 1


def test_what_the_mesh_has_of_us_is_jumped_over(state: StateDirectory) -> None:
    sequence = Sequence.load(state, Clock())
    assert sequence.next(above=2**62) == 2**62 + 1
    assert sequence.next() == 2**62 + 2


def test_a_disk_that_cannot_be_written_hands_out_nothing_and_may_recover(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    sequence = Sequence.load(state, clock)
    used = sequence.next()
    clock.now += 3 * AHEAD / 1000

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):
        with pytest.raises(StateError, match=r"no sequence can be reserved: cannot write .* room"):
            sequence.next()
    monkeypatch.undo()
    assert sequence.next() > used


def test_no_sequence_reaches_2_63(state: StateDirectory) -> None:
    sequence = Sequence.load(state, Clock())
    assert sequence.next(above=2**63 - 2) == 2**63 - 1
    with pytest.raises(UsageError, match="no sequence is left below 2\\^63"):
        sequence.next()
    with pytest.raises(UsageError, match="no sequence is left"):
        Sequence.load(state, Clock()).next()


@pytest.mark.parametrize("content", [b"", b"12", b"-1\n", b"1e3\n", b"9999999999999999999\n"])
def test_a_damaged_sequence_is_not_guessed(state: StateDirectory, content: bytes) -> None:
    (state.path / "sequence").write_bytes(content)
    with pytest.raises(UsageError, match="sequence holds no sequence; remove it"):
        Sequence.load(state, Clock())
