"""NAT exclusion in the two forms that work on illumos, and none.

``Pooled`` (nat = "ippool"): rules of the operator in ipf.conf and ipnat.conf, and a pool that is
ours to fill.  ``Listed`` (nat = "ipnat"): a list of map lines that is ours as a whole.  Both keep
the kernel first and the file for the next boot after it.  What others put into the same pool or
list stays; where it says the same as we would, it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import attrs

from meshd.errors import StateError
from meshd.kernel.illumos import blocks, nat, pool
from meshd.kernel.illumos.boot import BootFile
from meshd.kernel.illumos.journal import Journal
from meshd.kernel.illumos.nat import Map, four
from meshd.kernel.illumos.options import Options
from meshd.kernel.illumos.runner import Done, Runner
from protocol.address import Prefix

LIVE_ONLY: Final = "it is in the kernel, but will not be there after a boot"

Refusals = Mapping[Prefix | None, str]
"""Prefix to why it is not as wanted; None: all of it."""


@attrs.frozen
class Excluded:
    """What is excluded now."""

    local: frozenset[Prefix] = frozenset()
    mesh: frozenset[Prefix] = frozenset()
    table: bool = False
    problems: tuple[str, ...] = ()


class Exclusion(Protocol):
    """One form of it."""

    seen: str
    """What was last seen of what we keep: ``fingerprint`` then."""

    device: str | None
    """Where the default route leads, for who is not told an interface."""

    def read(self) -> Excluded:
        """What the journal says is ours and the kernel has. ``OSError`` when the tools do not
        answer."""

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        """Make it so, as far as possible."""

    def clear(self) -> Refusals:
        """Take away all that is ours."""

    def fingerprint(self) -> str:
        """Changes when somebody changes what we keep. ``OSError`` as above."""

    def words(self, prefix: Prefix, *, add: bool) -> str:
        """The command that a person would type for it."""


class Without:
    """nat = "off": nothing is kept."""

    seen = ""
    device: str | None = None

    def read(self) -> Excluded:
        return Excluded()

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        del local, mesh
        return {}

    def clear(self) -> Refusals:
        return {}

    def fingerprint(self) -> str:
        return ""

    def words(self, prefix: Prefix, *, add: bool) -> str:
        del prefix, add
        return ""


def _ask(runner: Runner, argv: tuple[str, ...], *, chatty: bool = False) -> str:
    """``chatty``: what it says on standard error is no complaint."""
    done = runner.run(argv)
    if _denied(done):
        raise PermissionError(told(done))
    if done.code or (done.err and not chatty):
        raise OSError(told(done))
    return done.out


def _denied(done: Done) -> bool:
    return "denied" in done.err or "Not owner" in done.err


def told(done: Done) -> str:
    """What a command complains of, with the remedy where there is one."""
    if "I/O error" in done.err:
        return f"{done.complaint}: the packet filter is not enabled: svcadm enable ipfilter"
    if _denied(done):
        return f"{done.complaint}: the privilege sys_ip_config is missing"
    return done.complaint


class Pooled:
    """By a pool."""

    def __init__(self, runner: Runner, journal: Journal, options: Options) -> None:
        self._runner, self._journal, self._number = runner, journal, options.pool
        self._file = BootFile(options.pool_file, journal) if options.pool_file else None
        self._file_failed = False
        self.seen = ""
        self.device: str | None = None

    def read(self) -> Excluded:
        found, journal = self._list(), self._journal
        if found is None:
            return Excluded()
        mesh = frozenset(p for p in journal.mesh if p.version == 6 or p in found.nets)
        problems = self._lacking(journal.local)
        if self._file is not None and not self._file_failed:
            lines = pool.table(self._number, journal.mesh)
            problems += [each for each in [self._file.problem(lines)] if each is not None]
        return Excluded(frozenset(journal.local), mesh, True, tuple(problems))

    def fingerprint(self) -> str:
        return _ask(self._runner, pool.show(self._number))

    def _list(self) -> pool.Pool | None:
        self.seen = self.fingerprint()
        return pool.listed(self.seen, self._number)

    def _lacking(self, local: Iterable[Prefix]) -> list[str]:
        """What of the operator's lines is missing."""
        sources = four(local)
        if not sources:
            return []
        maps = nat.listed(_ask(self._runner, ("ipnat", "-l")))
        # "empty list" is said on standard error, and is no error.
        filters = _ask(self._runner, ("ipfstat", "-o"), chatty=True)
        found = [
            problem
            for source in sources
            for problem in pool.missing(source, self._number, maps, filters)
        ]
        referred = self._references()
        if not found and referred is not None and referred <= (self._journal.unreferred or 1):
            found.append(
                f"the rules of ipf were loaded before pool {self._number} was there, and do not"
                " see it: ipf -I -Fa -f /etc/ipf/ipf.conf -s"
            )
        return found

    def _references(self) -> int | None:
        # -d talks on standard error.
        return pool.references(_ask(self._runner, pool.inspect(self._number), chatty=True))

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        journal, nets = self._journal, set(four(mesh))
        there = self._list()
        journal.local |= local
        journal.mesh |= mesh
        refused: dict[Prefix | None, str] = {}
        if self._file is not None:
            elsewhere = self._defined_elsewhere(self._file)
            if elsewhere:
                return {None: elsewhere}
        if there is None:
            journal.made_pool = True
            journal.entries |= nets
            journal.save()
            text = "\n".join(pool.table(self._number, mesh)) + "\n"
            complaint = told(self._runner.run(pool.LOAD, text))
            refused |= dict.fromkeys(nets, complaint) if complaint else {}
            # No rule that was loaded before can refer to it.
            journal.unreferred = self._references() or 0
        else:
            journal.entries |= nets - there.nets
            journal.save()
            # Additions first: between the two no address of the mesh is in none.
            for net in sorted(nets - there.nets):
                refused |= self._change(pool.add(self._number, net), net)
            for net in sorted((there.nets & journal.entries) - nets):
                refused |= self._change(pool.remove(self._number, net), net)
        now = self._list()
        held = now.nets if now is not None else frozenset()
        wrong: dict[Prefix | None, str] = {}
        for net in sorted(nets - held):
            wrong[net] = refused.get(net) or f"it is not in pool {self._number} all the same"
        for net in sorted((held & journal.entries) - nets):
            wrong[net] = refused.get(net) or f"it is in pool {self._number} all the same"
        refused = wrong
        journal.entries &= held
        journal.local, journal.mesh = set(local), set(mesh)
        journal.save()
        if self._file is not None:
            complaint = self._file.write(pool.table(self._number, mesh)) or ""
            self._file_failed = bool(complaint)
            if complaint:
                refused[None] = (
                    f"it is in the kernel, but will not be at the next boot: {complaint}"
                )
        lacking = self._lacking(local)
        if lacking:
            refused[None] = "; ".join(lacking)
        return refused

    def _change(self, argv: tuple[str, ...], net: Prefix) -> Refusals:
        done = self._runner.run(argv)
        if "File exists" in done.err:
            self._journal.entries.discard(net)  # Somebody was faster: it is theirs.
        complaint = told(done)
        return {net: complaint} if complaint else {}

    def _defined_elsewhere(self, file: BootFile) -> str:
        try:
            ahead, _, after = blocks.split(file.text())
        except (blocks.Damaged, StateError) as error:
            return f"{file.path}: {error}"
        if pool.listed(ahead + after, self._number) is not None:
            return (
                f"{file.path} defines pool {self._number} outside our lines:"
                " give another number in [illumos], pool"
            )
        return ""

    def clear(self) -> Refusals:
        journal, there = self._journal, self._list()
        refused: dict[Prefix | None, str] = {}
        held: frozenset[Prefix] = frozenset()
        if there is not None:
            for net in sorted(there.nets & journal.entries):
                refused |= self._change(pool.remove(self._number, net), net)
            left = self._list()
            held = left.nets if left is not None else frozenset()
            if journal.made_pool and left is not None and not held and not left.others:
                # Refused while rules of ipf name it: then it stays, empty.
                self._runner.run(pool.destroy(self._number))
        if self._file is not None:
            complaint = self._file.write([])
            refused |= {None: complaint} if complaint else {}
        journal.entries &= held
        journal.made_pool = journal.made_pool and bool(refused)
        journal.save()
        return refused

    def words(self, prefix: Prefix, *, add: bool) -> str:
        return " ".join((pool.add if add else pool.remove)(self._number, prefix))


class Listed:
    """By a list of map lines."""

    def __init__(self, runner: Runner, journal: Journal, options: Options) -> None:
        self._runner, self._journal = runner, journal
        self._option = options.interface
        self.device: str | None = None
        self._file = BootFile(options.nat_file, journal) if options.nat_file else None
        self._file_failed = False
        self.seen = ""

    @property
    def _interface(self) -> str:
        return self._option or self.device or self._journal.interface

    def fingerprint(self) -> str:
        return _ask(self._runner, ("ipnat", "-l")).partition("\n\n")[0]

    def _list(self) -> list[Map]:
        self.seen = self.fingerprint()
        found = nat.listed(self.seen)
        return [each for each in found if isinstance(each, Map)]

    def _ours(self, there: list[Map]) -> frozenset[Map]:
        return frozenset(line for line in there if line in self._journal.lines or line.generation)

    def read(self) -> Excluded:
        journal, there = self._journal, self._list()
        sources = four(journal.local)
        if sources and not self._ours(there):
            return Excluded()
        effective = [nat.effective(there, self._interface, source) for source in sources]
        mesh = frozenset(
            prefix
            for prefix in journal.mesh
            if prefix.version == 6 or all(prefix in each for each in effective)
        )
        problems = self._ahead(there, sources)
        change = nat.reload(there, self._ours(there), self._interface, journal.local, mesh)
        if change:
            problems.append("the list of ipnat is not as it was left")
        if self._file is not None and not self._file_failed:
            lines = nat.text(self._interface, journal.local, journal.mesh)
            problems += [each for each in [self._file.problem(lines)] if each is not None]
        return Excluded(frozenset(journal.local), mesh, True, tuple(problems))

    @staticmethod
    def _ahead(there: list[Map], sources: Iterable[Prefix]) -> list[str]:
        found = [line for line in (nat.ahead_of_ours(there, each) for each in sources) if line]
        return [
            f'a foreign line stands ahead of ours and translates the mesh: "{line}"; let it come'
            f" after them: echo '{line}' | ipnat -rf - ; echo '{line}' | ipnat -f -"
            for line in found
        ]

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        journal = self._journal
        if four(local) and not self._interface:
            return {None: "no default route says where we translate: set [illumos], interface"}
        there = self._list()
        change = nat.reload(there, self._ours(there), self._interface, local, mesh)
        journal.local |= local
        journal.mesh |= mesh
        journal.lines |= set(change.add)
        journal.interface = self._interface
        journal.save()
        refused: dict[Prefix | None, str] = {}
        if change.add:
            text = "".join(f"{line}\n" for line in change.add)
            # A syntax error would be found after what stands before it was loaded.
            complaint = told(self._runner.run(("ipnat", "-n", "-f", "-"), text))
            complaint = complaint or told(self._runner.run(("ipnat", "-f", "-"), text))
            there = self._list()
            missing = [line for line in change.add if line not in there]
            if missing:
                journal.lines &= set(there)
                journal.save()
                return {None: complaint or f'ipnat does not list "{missing[0]}"'}
        if change.remove:
            text = "".join(f"{line}\n" for line in change.remove)
            complaint = told(self._runner.run(("ipnat", "-r", "-f", "-"), text))
            there = self._list()
            for line in change.remove:
                if line in there:
                    refused[line.to if line.excludes else None] = complaint or "it is still there"
        journal.lines &= set(there)
        journal.local, journal.mesh = set(local), set(mesh)
        journal.save()
        for source in four(local):
            done = nat.effective(there, self._interface, source)
            refused |= {net: "it is not in the list" for net in four(mesh) if net not in done}
        if self._file is not None:
            complaint = self._file.write(nat.text(self._interface, local, mesh)) or ""
            self._file_failed = bool(complaint)
            if complaint:
                refused[None] = (
                    f"it is in the kernel, but will not be at the next boot: {complaint}"
                )
        ahead = self._ahead(there, four(local))
        if ahead:
            refused[None] = "; ".join(ahead)
        return refused

    def clear(self) -> Refusals:
        journal, there = self._journal, self._list()
        refused: dict[Prefix | None, str] = {}
        gone = nat.reload(there, self._ours(there), self._interface, [], []).remove
        if gone:
            text = "".join(f"{line}\n" for line in gone)
            complaint = told(self._runner.run(("ipnat", "-r", "-f", "-"), text))
            there = self._list()
            if set(gone) & set(there):
                refused[None] = complaint or "some of our lines are still there"
        if self._file is not None:
            complaint = self._file.write([]) or ""
            refused |= {None: complaint} if complaint else {}
        journal.lines &= set(there)
        journal.save()
        return refused

    def words(self, prefix: Prefix, *, add: bool) -> str:
        lines = [
            str(nat.exclusion(self._interface, source, net))
            for source in four(self._journal.local)
            for net in four([prefix])
        ]
        verb = "add" if add else "remove"
        return "\n".join(f"ipnat: {verb} {line}" for line in lines)
