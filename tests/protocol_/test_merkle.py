"""The tree: its root is its content's, and a walk finds the difference and nothing else."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages
from protocol.merkle import BUCKET, EMPTY, SLOT_SIZE, Branch, Bucket, Tree
from protocol.messages import Subtree, Walk

Slots = dict[bytes, bytes]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def slot(number: int, lead: int = 0) -> bytes:
    """A slot id; those with the same ``lead`` share that many leading octets."""
    return bytes(lead) + digest(f"slot {number}")[: SLOT_SIZE - lead]


def value(number: int) -> bytes:
    return digest(f"object {number}")[:16]


# Few octets, so that slots meet in deep subtrees and are set, changed and emptied again.
slots = st.builds(slot, st.integers(0, 60), st.sampled_from((0, 1, 5, 11)))
contents = st.dictionaries(slots, st.builds(value, st.integers(0, 3)), max_size=80)


def tree_of(content: Slots) -> Tree:
    tree = Tree()
    for each, held in content.items():
        tree.set(each, held)
    return tree


@given(contents, st.randoms(use_true_random=False))
def test_the_root_does_not_depend_on_the_order_of_arrival(content: Slots, rng: Random) -> None:
    shuffled = list(content.items())
    rng.shuffle(shuffled)
    assert tree_of(dict(shuffled)).root == tree_of(content).root


@given(contents, contents, st.booleans())
def test_the_root_does_not_depend_on_what_was_there_before(
    content: Slots, before: Slots, look: bool
) -> None:
    tree = tree_of(before)
    if look:
        assert len(tree.root) == 16  # hashes are kept; a stale one would show below
    for each in before:
        if each not in content:
            tree.discard(each)
            if look:
                assert tree.root
    for each, held in content.items():
        tree.set(each, held)
    assert tree.root == tree_of(content).root
    assert len(tree) == len(content)
    assert {each: tree.get(each) for each in content} == content


@given(contents, contents)
def test_roots_are_equal_exactly_when_contents_are(one: Slots, other: Slots) -> None:
    assert (tree_of(one).root == tree_of(other).root) == (one == other)


@pytest.mark.parametrize("count", [0, 1, BUCKET, BUCKET + 1, 300])
def test_emptying_every_slot_leaves_the_empty_root(count: int) -> None:
    tree = tree_of({slot(each): value(each) for each in range(count)})
    assert (tree.root == EMPTY) == (count == 0)
    for each in range(count):
        tree.discard(slot(each))
        tree.discard(slot(each))
    assert tree.root == EMPTY == Tree().root
    assert len(tree) == 0


def test_swapping_two_objects_changes_the_root() -> None:
    one = tree_of({slot(1): value(1), slot(2): value(2)})
    assert one.root != tree_of({slot(1): value(2), slot(2): value(1)}).root


@given(contents)
def test_every_subtree_is_seen_by_the_hash_that_its_parent_names(content: Slots) -> None:
    tree = tree_of(content)

    def check(path: bytes) -> Slots:
        _, seen = tree.look(path)
        if isinstance(seen, Bucket):
            assert len(seen.slots) <= BUCKET
            assert list(seen.slots) == sorted(seen.slots)
            return dict(seen.slots)
        found: Slots = {}
        for digit, child in enumerate(seen.children):
            below = path + bytes([digit])
            assert tree.look(below)[0] == child
            found |= check(below)
        assert len(found) > BUCKET
        return found

    assert check(b"") == content


def walk(ours: Tree, theirs: Tree) -> tuple[set[bytes], int]:
    """The slots in which they hold something else than we, and the messages that it took."""
    paths, different, sent = [b""], set(), 0
    while paths:
        path = paths.pop()
        asked = messages.decode(messages.encode(Walk(1, path, ours.look(path)[0])))
        assert isinstance(asked, Walk)
        held, seen = theirs.look(asked.path)
        told = None if held == asked.hash else seen
        answer = messages.decode(messages.encode(Subtree(1, path, told)))
        assert isinstance(answer, Subtree)
        sent += 2
        if isinstance(answer.content, Branch):
            below = [path + bytes([digit]) for digit in range(16)]
            pairs = zip(below, answer.content.children, strict=True)
            paths += [each for each, child in pairs if ours.look(each)[0] != child]
        elif answer.content is not None:
            content = answer.content.slots
            different |= {each for each, seen in content.items() if ours.get(each) != seen}
    return different, sent


@given(contents, contents)
def test_a_walk_finds_exactly_what_differs(one: Slots, other: Slots) -> None:
    found, _ = walk(tree_of(one), tree_of(other))
    assert found == {each for each, held in other.items() if one.get(each) != held}
    found, _ = walk(tree_of(other), tree_of(one))
    assert found == {each for each, held in one.items() if other.get(each) != held}


def test_a_walk_costs_what_differs_and_not_what_there_is() -> None:
    content = {slot(each): value(each) for each in range(5000)}
    ours, theirs = tree_of(content), tree_of(content)
    assert walk(ours, theirs) == (set(), 2)
    theirs.set(slot(77), value(-1))
    assert walk(ours, theirs) == ({slot(77)}, 8)  # 16^3 < 5000 slots / 16 < 16^4
