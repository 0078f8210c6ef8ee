"""Agreement: *converged* is said soon, by everyone, and never of a root that somebody lacked."""

from __future__ import annotations

from random import Random

import pytest
from parts import Parts, announcement, node

from protocol.address import Prefix
from protocol.agreement import Agreement
from protocol.events import Converged
from protocol.members import Member, State
from protocol.messages import Agree
from simulation import Host, Network
from simulation.warm import warm_mesh

SEEDS = range(4)


def warm(seed: int, number: int, *, loss: float = 0.0) -> tuple[Network, list[Host]]:
    """A mesh whose referee holds every *converged* against what all hosts really have held."""
    net = Network(seed, loss=loss, cipher=False, truthful=True)
    hosts = warm_mesh(net, number)
    net.run_until(lambda: all(host.up.converged for host in hosts))
    return net, hosts


def announce(host: Host, text: str) -> None:
    host.prefixes = (Prefix.parse(text),)
    host.do(lambda node, now: node.announce(now, prefixes=host.prefixes))


def agreements(hosts: list[Host]) -> int:
    return sum(len(host.told(Converged)) for host in hosts)


@pytest.mark.parametrize("seed", SEEDS)
def test_everyone_says_so_within_a_second_of_an_update(seed: int) -> None:
    net, hosts = warm(seed, 100)
    before = agreements(hosts)
    announce(hosts[3], "10.99.0.0/24")
    assert not hosts[3].up.converged
    took = net.run_until(lambda: all(host.up.converged for host in hosts))
    assert took < 1, net
    assert agreements(hosts) - before == 100
    assert len({host.up.store.root for host in hosts}) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_true_through_loss_and_while_announcements_go_on(seed: int) -> None:
    net, hosts = warm(seed, 24, loss=0.2)
    before, rng = agreements(hosts), Random(seed)
    for number in range(30):
        announce(rng.choice(hosts), f"10.99.{number}.0/24")
        net.run(rng.expovariate(5.0))
    net.run_until(lambda: all(host.up.converged for host in hosts))
    assert agreements(hosts) - before >= 24


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_not_said_while_a_live_member_does_not_hold_the_root(seed: int) -> None:
    net, hosts = warm(seed, 20)
    deaf = hosts[4]
    # It is alive, answers, and hears of no news whatever: 71 bytes are a probe or its ack.
    net.drop(lambda source, target, data: target is deaf and len(data) > 79)
    before = agreements(hosts)
    announce(hosts[3], "10.99.0.0/24")
    net.run(5)
    assert agreements(hosts) == before
    assert net.state("n1", deaf.name) == "alive"
    net.heal()
    net.run_until(lambda: all(host.up.converged for host in hosts))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_member_does_not_hold_the_others_back_for_ever(seed: int) -> None:
    net, hosts = warm(seed, 20)
    net.kill("n5")
    announce(hosts[3], "10.99.0.0/24")
    living = [host for host in hosts if host.name != "n5"]
    net.run(0.3)
    assert not any(host.up.converged for host in living), "nobody knows yet that it is dead"
    net.run_until(lambda: all(host.up.converged for host in living), 10)
    told = living[0].told(Converged)[-1]
    assert isinstance(told, Converged)
    assert (told.peers, told.known) == (18, 19)


def test_agreement_costs_nothing_once_it_is_complete() -> None:
    net, hosts = warm(1, 20)
    net.run(2)
    before = [host.up.counters["sent Agree"] for host in hosts]
    net.run(30)
    assert [host.up.counters["sent Agree"] for host in hosts] == before


def test_while_somebody_is_missing_the_rounds_become_rare() -> None:
    net, hosts = warm(1, 3)
    net.drop(lambda source, target, data: target is hosts[2] and len(data) > 79)
    announce(hosts[0], "10.99.0.0/24")
    net.run(60)
    before = hosts[0].up.counters["sent Agree"]
    net.run(60)
    assert net.state("n1", "n3") == "alive"
    # One round of its own each five seconds, and an answer to each of the others'.
    assert hosts[0].up.counters["sent Agree"] - before <= 3 * 60 / net.tuning.agree_max + 3


@pytest.mark.parametrize("seed", SEEDS)
def test_who_was_waited_for_long_is_soon_known_to_all_when_it_hears_again(seed: int) -> None:
    net, hosts = warm(seed, 40)
    net.drop(lambda source, target, data: target is hosts[4] and len(data) > 79)
    announce(hosts[3], "10.99.0.0/24")
    net.run(60)
    assert not any(host.up.converged for host in hosts if host is not hosts[4])
    net.heal()
    assert net.run_until(lambda: all(host.up.converged for host in hosts)) < 3, net


# The rules, one by one.


class Agreeing(Parts):
    """The agreement of node 0, which has met everyone."""

    def begin(self) -> None:
        self.differing: list[bytes] = []
        self.whole = True
        self.agreement = Agreement(
            self.common,
            self.now,
            send=self.send,
            heard=lambda member, now: self.differing.append(member.key),
            holds_all=lambda: self.whole,
            may_settle=lambda: True,
        )
        self.agreement.changed(self.now)

    def hear(self, number: int, message: Agree) -> list[Agree]:
        """What is sent in return for ``message`` of that node."""
        self.take()
        self.agreement.told(self.member(number), message, self.now)
        return [each for _, each in self.take() if isinstance(each, Agree)]

    def member(self, number: int) -> Member:
        return self.common.members[node(number).public]

    def bit(self, *numbers: int) -> int:
        rank = self.common.store.announcements.rank
        return sum(1 << rank(node(number).public) for number in numbers)

    def claim(self, *numbers: int, answers: bool = False) -> Agree:
        return Agree(answers, self.common.store.root, self.bit(*numbers), self.size)


def agreeing(size: int = 4) -> Agreeing:
    made = Agreeing(size)
    made.begin()
    return made


def test_it_is_complete_when_every_live_member_has_its_bit() -> None:
    made = agreeing()
    made.hear(1, made.claim(1, 2))
    assert not made.agreement.converged
    made.hear(3, made.claim(3))
    assert made.agreement.converged
    assert [type(event) for event in made.common.events] == [Converged]


def test_a_claim_is_answered_with_all_that_is_known_unless_it_was_an_answer() -> None:
    made = agreeing()
    assert made.hear(1, made.claim(1)) == [made.claim(0, 1, answers=True)]
    assert made.hear(2, made.claim(2, answers=True)) == []
    assert made.hear(1, made.claim(0, 1, 2)) == [], "it knows all that we know"


def test_another_root_is_answered_with_ours_and_looked_into() -> None:
    made = agreeing()
    root = made.common.store.root
    assert made.hear(1, Agree(False, bytes(16), 1, 4)) == [Agree(True, root, 0, 4)]
    assert made.hear(2, Agree(True, bytes(16), 1, 4)) == []
    assert made.differing == [node(1).public, node(2).public]
    assert not made.agreement.converged


def test_a_set_over_another_number_of_members_is_not_of_our_root() -> None:
    made = agreeing()
    made.hear(1, Agree(False, made.common.store.root, 0b11111, 5))
    assert not made.agreement.converged


def test_what_was_known_of_a_root_is_forgotten_with_it() -> None:
    made = agreeing()
    made.hear(1, made.claim(1, 2))
    made.hold(announcement(3, 2))
    made.agreement.changed(made.now)
    made.hear(3, made.claim(3))
    assert not made.agreement.converged
    made.hear(1, made.claim(1, 2))
    assert made.agreement.converged


def test_nobody_says_to_have_held_a_root_before_the_shards_are_here_that_it_names() -> None:
    made = agreeing()
    made.whole = False
    made.hold(announcement(3, 2))
    made.agreement.changed(made.now)
    made.hear(1, made.claim(1, 2, 3))
    assert not made.agreement.converged
    made.whole = True
    made.agreement.changed(made.now)
    assert made.agreement.converged


def test_a_member_that_fails_is_no_longer_waited_for() -> None:
    made = agreeing()
    made.hear(1, made.claim(1, 2))
    missing = made.member(3)
    missing.state = State.FAILED
    made.common.members.place(missing)
    made.agreement.changed(made.now)
    assert made.agreement.converged


def test_nobody_converges_while_a_member_is_unseen() -> None:
    made = agreeing()
    stranger = made.member(3)
    stranger.seen = False
    made.common.members.place(stranger)
    made.hear(1, made.claim(1, 2))
    assert not made.agreement.converged


def test_one_live_member_is_asked_in_each_round_and_ever_more_rarely() -> None:
    made = agreeing()
    period, longest = made.common.tuning.agree_period, made.common.tuning.agree_max
    made.wait(1.2 * period)
    assert len(made.take()) == 1
    made.wait(60)
    made.take()
    made.wait(60)
    told = made.take()
    assert 0 < len(told) <= 60 / longest + 1
    assert all(isinstance(message, Agree) and not message.answers for _, message in told)
