"""nat = "ipnat": a list of map lines that is ours as a whole."""

from __future__ import annotations

from collections.abc import Iterable

from meshd.errors import StateError
from meshd.kernel.illumos import nat, pool
from meshd.kernel.illumos.boot import BootFile
from meshd.kernel.illumos.exclusion import Excluded, Refusals, Surroundings, ask, rules, told
from meshd.kernel.illumos.journal import Journal
from meshd.kernel.illumos.nat import Map, four
from meshd.kernel.illumos.options import Options
from meshd.kernel.illumos.runner import Runner
from protocol.address import Prefix


class Listed:
    """An ``Exclusion``."""

    def __init__(self, runner: Runner, journal: Journal, options: Options) -> None:
        self._runner, self._journal, self._option = runner, journal, options.interface
        self._file = BootFile(options.nat_file, journal)
        self.seen = ""
        self.around = Surroundings()

    @property
    def _interface(self) -> str:
        return self._option or self.around.default or self._journal.interface

    def unfit(self) -> str:
        try:
            self._file.others()
        except StateError as error:
            return str(error)
        return ""

    def _nowhere(self) -> str:
        """Why nothing can be translated now."""
        if not self._interface:
            return "no default route says where we translate: set [illumos], interface"
        if self._interface not in self.around.interfaces | {"*"}:
            return (
                f"there is no {self._interface} to translate at ([illumos], interface);"
                f" there is {', '.join(sorted(self.around.interfaces - {'lo0'}))}"
            )
        return ""

    def fingerprint(self) -> str:
        return ask(self._runner, ("ipnat", "-l")).partition("\n\n")[0]

    def _list(self) -> list[Map]:
        self.seen = self.fingerprint()
        return [each for each in nat.listed(self.seen) if isinstance(each, Map)]

    def _ours(self, there: list[Map], local: Iterable[Prefix] = ()) -> frozenset[Map]:
        """By the journal; the base lines of our subnets by their mark too, for those of the file
        have another number than those that were there before the boot."""
        sources = {*self._journal.local, *local}
        return frozenset(
            line
            for line in there
            if line in self._journal.lines or (line.generation and line.source in sources)
        )

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
        problems = self._in_the_way(there, sources)
        if nat.reload(there, self._ours(there), self._interface, journal.local, mesh):
            problems.append("the list of ipnat is not as it was left")
        problems += self._file.problems(nat.text(self._interface, journal.local, journal.mesh))
        return Excluded(frozenset(journal.local), mesh, True, tuple(problems))

    def _in_the_way(self, there: list[Map], sources: Iterable[Prefix]) -> list[str]:
        """What keeps our lines from being looked at."""
        found = []
        filters = rules(self._runner)
        for source in sources:
            line = nat.ahead_of_ours(there, source)
            if line is not None:
                found.append(
                    f'a foreign line stands ahead of ours and translates the mesh: "{line}"; let it'
                    f" come after them: echo '{line}' | ipnat -rf - ; echo '{line}' | ipnat -f -"
                )
            rule = pool.tagging(filters, self._interface, source)
            if rule:
                found.append(
                    f'a rule of ipf gives a tag, and so no line of ours translates: "{rule}";'
                    " take it out of ipf.conf: ipf -I -Fa -f /etc/ipf/ipf.conf -s"
                )
        return found

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        if reason := self.unfit() or (four(local) and self._nowhere()):
            return {None: reason}
        journal, there = self._journal, self._list()
        change = nat.reload(there, self._ours(there, local), self._interface, local, mesh)
        journal.local |= local
        journal.mesh |= mesh
        journal.lines |= set(change.add)
        journal.interface = self._interface
        journal.save()
        refused: dict[Prefix | None, str] = {}
        if change.add:
            # A syntax error would be found after what stands before it was loaded.
            complaint = self._run("-n", "-f", lines=change.add)
            complaint = complaint or self._run("-f", lines=change.add)
            there = self._list()
            missing = [line for line in change.add if line not in there]
            if missing:
                journal.lines &= set(there)
                journal.save()
                return {None: complaint or f'ipnat does not list "{missing[0]}"'}
        if change.remove:
            complaint = self._run("-r", "-f", lines=change.remove)
            there = self._list()
            for line in change.remove:
                if line in there:
                    refused[line.to if line.excludes else None] = complaint or "it is still there"
        for source in four(local):
            done = nat.effective(there, self._interface, source)
            refused |= {net: "it is not in the list" for net in four(mesh) if net not in done}
        complaint = self._file.write(nat.text(self._interface, local, mesh))
        if not complaint:  # What the file says is back after a boot, and ours then too.
            journal.lines &= set(there)
        journal.local, journal.mesh = set(local), set(mesh)
        journal.save()
        if reason := "; ".join(self._in_the_way(there, four(local))) or complaint:
            refused[None] = reason
        return refused

    def _run(self, *options: str, lines: Iterable[Map]) -> str:
        """``ipnat`` over these lines: what it complains of."""
        text = "".join(f"{line}\n" for line in lines)
        return told(self._runner.run(("ipnat", *options, "-"), text))

    def clear(self) -> Refusals:
        journal, there = self._journal, self._list()
        refused: dict[Prefix | None, str] = {}
        gone = nat.reload(there, self._ours(there), self._interface, [], []).remove
        if gone:
            complaint = self._run("-r", "-f", lines=gone)
            there = self._list()
            if set(gone) & set(there):
                refused[None] = complaint or "some of our lines are still there"
        if complaint := self._file.clear():
            refused[None] = complaint
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
