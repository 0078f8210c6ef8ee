"""A newcomer is filled: by whom, how fast, and what it is not told; who is asked too much."""

from __future__ import annotations

from collections import Counter

from parts import Parts, announcement, grant, node
from sides import LEFT, RIGHT, newcomer_to, side, two

from protocol import messages
from protocol.messages import (
    Later,
    Message,
    Objects,
    PullShards,
    Scan,
    Subtree,
    Walk,
)
from protocol.store import Store


def test_a_newcomer_pays_for_what_it_lacks_and_little_more() -> None:
    both = two(1000)
    both.right.common.store.tree = Store().tree
    both.right.hold(grant(0), announcement(0), grant(1), announcement(1))
    both.meet()
    assert both.equal
    lacked = sum(len(each.raw) for each in both.left.common.store)
    assert both.left.octets + both.right.octets < 1.2 * lacked
    assert both.right.said["Scan"] > 100 > both.right.said["Walk"]


def test_a_newcomer_that_is_being_filled_puts_off_whoever_walks_it() -> None:
    both = two(1000)
    both.right.common.store.tree = Store().tree
    both.right.hold(grant(0), announcement(0), grant(1), announcement(1))
    both.right.told_root(LEFT, both.left.common.store.root)
    both.run(0.03)
    assert not both.equal
    both.left.told_root(RIGHT, both.right.common.store.root)
    both.run(2)
    assert both.equal
    assert both.left.said["Walk"] == 1


def test_no_more_questions_are_out_at_a_time_than_the_window_holds() -> None:
    server = side(0, 1000)
    made = newcomer_to(server)
    most = Counter[bytes]()
    out = made.take()
    assert len(out) == 1
    while out:
        most |= Counter(peer for peer, _ in out)
        peer, message = out.pop(0)
        server.hear(RIGHT, message)
        ((_, answer),) = server.take()
        made.hear(peer, answer)
        out += made.take()
    assert made.common.store.root == server.common.store.root
    assert max(most.values()) == made.common.tuning.window_max


def test_a_newcomer_shares_out_what_it_scans_among_the_members_it_knows() -> None:
    server = side(0, 1000)
    made = newcomer_to(server, 6)
    scanned = Counter[bytes]()
    while out := made.take():
        for peer, message in out:
            scanned[peer] += isinstance(message, Scan)
            server.hear(RIGHT, message)
            ((_, answer),) = server.take()
            made.hear(peer, answer)
    assert made.common.store.root == server.common.store.root
    assert len(scanned) == 4
    assert max(scanned.values()) < 0.5 * sum(scanned.values())


def test_what_a_silent_member_was_to_send_another_is_asked_for() -> None:
    server = side(0, 200)
    made = newcomer_to(server, 4)
    asked = Counter[bytes]()
    for _ in range(2000):
        made.told_root(node(2).public, server.common.store.root)
        for peer, message in made.take():
            asked[peer] += 1
            server.hear(RIGHT, message)
            ((_, answer),) = server.take()
            if peer != LEFT or asked[peer] < 3:  # the first falls silent
                made.hear(peer, answer)
        made.wait(0.001)
    assert made.common.store.root == server.common.store.root
    assert asked[LEFT] < 10


def test_who_was_asked_for_scans_meanwhile_is_not_synchronised_with_twice() -> None:
    server = side(0, 1000)
    made = newcomer_to(server, 3)
    made.told_root(node(2).public, server.common.store.root)  # its walk begins a little later
    asked = list[Message]()
    for _ in range(100):
        for peer, message in made.take():
            asked += [message] if peer == node(2).public else []
            server.hear(RIGHT, message)
            ((_, answer),) = server.take()
            made.hear(peer, answer)
        made.wait(0.001)
    assert made.common.store.root == server.common.store.root
    assert any(isinstance(each, Scan) for each in asked)
    assert not any(isinstance(each, Walk) and not each.path for each in asked)


def test_who_is_being_filled_says_later_to_a_scan_and_another_is_asked() -> None:
    first, filled = side(0, 1000), side(2, 1000, Store())
    filled.hold(*(make(each) for each in (0, 2) for make in (grant, announcement)))
    filled.told_root(LEFT, first.common.store.root)
    filled.wait(0.1)
    ((_, walk),) = filled.take()
    first.hear(node(2).public, walk)
    ((_, answer),) = first.take()
    filled.hear(LEFT, answer)
    filled.take()

    filled.hear(RIGHT, Scan(7, b"", bytes(12)))
    ((_, later),) = filled.take()
    assert later == Objects(7, True, ())

    made = newcomer_to(first, 3)
    said = Counter[bytes]()
    while out := made.take():
        for peer, message in out:
            said[peer] += 1
            server = filled if peer == node(2).public else first
            server.hear(RIGHT, message)
            ((_, answer),) = server.take()
            made.hear(peer, answer)
    assert made.common.store.root == first.common.store.root
    assert said[node(2).public] <= 2


def test_a_second_without_any_answer_ends_a_synchronisation_and_the_next_may_begin_soon() -> None:
    made = side(1, 100)
    for times in range(1, 6):
        made.told_root(LEFT, bytes(16))
        made.wait(1.1)
        assert made.said == {"Walk": 4 * times}
        made.told_root(LEFT, bytes(16))
        made.wait(0.5)
        assert made.said == {"Walk": 4 * times}, "not at once"
        made.wait(0.5)


def test_a_newcomer_asks_a_few_and_not_everyone_it_hears() -> None:
    made = side(1, 100)
    for number in range(2, 40):
        made.told_root(node(number).public, bytes([number]) * 16)
    made.wait(0.1)
    assert len(dict(made.take())) == 4


def test_what_one_peer_is_asked_to_send_no_other_is_asked_for() -> None:
    made = side(1, 3, Store())
    made.hold(*(make(each) for each in range(3) for make in (grant, announcement)))
    servers = {node(each).public: side(each, 200) for each in (0, 2)}
    for key, server in servers.items():
        made.told_root(key, server.common.store.root)
    scans = Counter[bytes]()
    for _ in range(300):
        made.wait(0.001)
        for key, message in made.take():
            if isinstance(message, Scan):
                scans[message.start] += 1
            servers[key].hear(RIGHT, message)
        for key, server in servers.items():
            for _, answer in server.take():
                made.hear(key, answer)
    assert made.common.store.root == servers[LEFT].common.store.root
    assert scans
    assert set(scans.values()) == {1}


def test_what_is_on_its_way_from_one_peer_is_not_fetched_from_another_that_shows_up_later() -> None:
    made = side(1, 3, Store())
    made.hold(*(make(each) for each in range(3) for make in (grant, announcement)))
    servers = {node(each).public: side(each, 1000) for each in (0, 2)}
    made.told_root(LEFT, servers[LEFT].common.store.root)
    came = Counter[bytes]()
    for round_trips in range(300):
        if round_trips == 5:
            made.told_root(node(2).public, servers[LEFT].common.store.root)
        made.wait(0.001)
        for key, message in made.take():
            servers[key].hear(RIGHT, message)
        for key, server in servers.items():
            for _, answer in server.take():
                if isinstance(answer, Objects):
                    came.update(each.hash for each, _ in answer.items)
                made.hear(key, answer)
    assert made.common.store.root == servers[LEFT].common.store.root
    assert len(came) > 1900
    assert sum(came.values()) < 1.05 * len(came)


def test_answers_of_all_kinds_together_are_given_at_a_limited_rate() -> None:
    made, tuning = side(0, 100), Parts(2).common.tuning
    for number in range(5_000):  # in a second
        made.hear(RIGHT, Walk(number, b"", bytes(16)))
        made.hear(RIGHT, PullShards(number, (bytes(16),)))
        made.wait(0.0002)
    answers = [message for _, message in made.take()]
    later = [each for each in answers if isinstance(each, Subtree) and each.content == Later()]
    whole = len(answers) - len(later)
    assert tuning.serve_burst < whole < tuning.serve_burst + tuning.serve_rate
    assert len(later) > 1000, "it is cheap to say"
    assert whole + len(later) / 10 <= tuning.serve_burst + tuning.serve_rate + 1
    assert len(answers) + made.common.counters["answer withheld"] == 10_000


def test_an_answer_about_another_path_than_was_asked_teaches_nothing() -> None:
    made = side(1, 100)
    made.told_root(LEFT, bytes(16))
    made.wait(0.1)
    ((_, walk),) = made.take()
    assert isinstance(walk, Walk)
    slots = messages.Slots({bytes(11) + b"\1": bytes(16)})
    made.hear(LEFT, Subtree(walk.request, b"\1", slots))
    made.wait(1)
    assert made.said == {"Walk": 1}
