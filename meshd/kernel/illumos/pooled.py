"""nat = "ippool": the mesh's subnets in a pool, entry by entry."""

from __future__ import annotations

from collections.abc import Iterable

from meshd.errors import StateError
from meshd.kernel.illumos import nat, pool
from meshd.kernel.illumos.boot import BootFile
from meshd.kernel.illumos.exclusion import Excluded, Refusals, Surroundings, ask, rules, told
from meshd.kernel.illumos.journal import Journal
from meshd.kernel.illumos.nat import four
from meshd.kernel.illumos.options import Options
from meshd.kernel.illumos.runner import Runner
from protocol.address import Prefix


class Pooled:
    """An ``Exclusion``."""

    def __init__(self, runner: Runner, journal: Journal, options: Options) -> None:
        self._runner, self._journal, self._number = runner, journal, options.pool
        self._file = BootFile(options.pool_file, journal)
        self.seen = ""
        self.around = Surroundings()

    def unfit(self) -> str:
        try:
            others = self._file.others()
        except StateError as error:
            return str(error)
        elsewhere = ""
        if pool.listed(others, self._number) is not None:
            elsewhere = "ippool.conf defines it outside our lines"
        elif self._shared() and (rule := pool.other_use(rules(self._runner), self._number)):
            elsewhere = f'it has entries of others, and ipf a rule with another use: "{rule}"'
        if elsewhere:
            return (
                f"pool {self._number} is somebody else's: {elsewhere};"
                " give another number in [illumos], pool"
            )
        return ""

    def _shared(self) -> bool:
        found = self._list()
        return found is not None and bool(found.others or found.nets - self._journal.entries)

    def read(self) -> Excluded:
        found, journal = self._list(), self._journal
        if found is None:
            return Excluded()
        mesh = frozenset(p for p in journal.mesh if p.version == 6 or p in found.nets)
        problems = self._lacking(journal.local)
        problems += self._file.problems(pool.table(self._number, journal.mesh))
        return Excluded(frozenset(journal.local), mesh, True, tuple(problems))

    def fingerprint(self) -> str:
        return ask(self._runner, pool.show(self._number))

    def _list(self) -> pool.Pool | None:
        self.seen = self.fingerprint()
        return pool.listed(self.seen, self._number)

    def _lacking(self, local: Iterable[Prefix]) -> list[str]:
        """What of the operator's lines is missing."""
        sources = four(local)
        if not sources:
            return []
        maps = nat.listed(ask(self._runner, ("ipnat", "-l")))
        filters = rules(self._runner)
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
        return pool.references(ask(self._runner, pool.inspect(self._number), chatty=True))

    def write(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        if unfit := self.unfit():
            return {None: unfit}
        journal, nets = self._journal, set(four(mesh))
        there = self._list()
        journal.local |= local
        journal.mesh |= mesh
        said: dict[Prefix | None, str] = {}
        if there is None:
            journal.made_pool = True
            journal.entries |= nets
            journal.save()
            text = "\n".join(pool.table(self._number, mesh)) + "\n"
            said |= dict.fromkeys(nets, told(self._runner.run(pool.LOAD, text)))
            # No rule that was loaded before can refer to it.
            journal.unreferred = self._references() or 0
        else:
            journal.entries |= nets - there.nets
            journal.save()
            # Additions first: between the two no address of the mesh is in none.
            for net in sorted(nets - there.nets):
                said[net] = self._change(pool.add(self._number, net), net)
            for net in sorted((there.nets & journal.entries) - nets):
                said[net] = self._change(pool.remove(self._number, net), net)
        now = self._list()
        held = now.nets if now is not None else frozenset()
        refused: dict[Prefix | None, str] = {}
        for net in sorted(nets - held):
            refused[net] = said.get(net) or f"it is not in pool {self._number} all the same"
        for net in sorted((held & journal.entries) - nets):
            refused[net] = said.get(net) or f"it is in pool {self._number} all the same"
        complaint = self._file.write(pool.table(self._number, mesh))
        if not complaint:  # What the file says is back after a boot, and ours then too.
            journal.entries &= held
        journal.local, journal.mesh = set(local), set(mesh)
        journal.save()
        if reason := "; ".join(self._lacking(local)) or complaint:
            refused[None] = reason
        return refused

    def _change(self, argv: tuple[str, ...], net: Prefix) -> str:
        done = self._runner.run(argv)
        if "File exists" in done.err:
            self._journal.entries.discard(net)  # Somebody was faster: it is theirs.
        return told(done)

    def clear(self) -> Refusals:
        journal, there = self._journal, self._list()
        refused: dict[Prefix | None, str] = {}
        held: frozenset[Prefix] = frozenset()
        if there is not None:
            for net in sorted(there.nets & journal.entries):
                refused[net] = self._change(pool.remove(self._number, net), net)
            left = self._list()
            held = left.nets if left is not None else frozenset()
            if journal.made_pool and left is not None and not held and not left.others:
                # Refused while rules of ipf name it: then it stays, empty.
                self._runner.run(pool.destroy(self._number))
        refused[None] = self._file.clear()
        refused = {net: reason for net, reason in refused.items() if reason}
        journal.entries &= held
        journal.made_pool = journal.made_pool and bool(refused)
        journal.save()
        return refused

    def words(self, prefix: Prefix, *, add: bool) -> str:
        return " ".join((pool.add if add else pool.remove)(self._number, prefix))
