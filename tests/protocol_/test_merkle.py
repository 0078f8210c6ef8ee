"""The tree: its root is its content's, and a walk finds the difference and nothing else."""

from __future__ import annotations

import hashlib
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.merkle import BUCKET, EMPTY, KINDS, SLOT_SIZE, Branch, Bucket, Tree


@attrs.frozen
class Item:
    """What the tree knows of an object: its hash."""

    hash: bytes


Slots = dict[bytes, Item]
Subtree = Bucket[Item] | Branch[Item]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def slot(number: int, lead: int = 0) -> bytes:
    """A slot id; those with the same ``lead`` share that many leading octets."""
    within = digest(f"slot {number}")[: SLOT_SIZE - 1 - lead]
    return bytes(lead) + within + bytes([1 + number % KINDS])


def value(number: int) -> Item:
    return Item(digest(f"object {number}")[:16])


# Few octets, so that slots meet in deep subtrees and are set, changed and emptied again.
slots = st.builds(slot, st.integers(0, 60), st.sampled_from((0, 1, 5, 10)))
contents = st.dictionaries(slots, st.builds(value, st.integers(0, 3)), max_size=80)


def tree_of(content: Slots, tree: Tree[Item] | None = None) -> Tree[Item]:
    tree = Tree() if tree is None else tree
    for each, held in content.items():
        tree = tree.put(each, held)
    return tree


def content_of(tree: Tree[Item]) -> Slots:
    return {each: held for each in all_slots(tree.top) if (held := tree.get(each)) is not None}


def all_slots(below: Subtree) -> list[bytes]:
    if isinstance(below, Bucket):
        return list(below.slots)
    return [each for child in below.children for each in all_slots(child)]


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
            tree = tree.without(each)
            if look:
                assert tree.root
    tree = tree_of(content, tree)
    assert tree.root == tree_of(content).root
    assert len(tree) == len(content)
    assert content_of(tree) == content


@given(contents, contents)
def test_roots_are_equal_exactly_when_contents_are(one: Slots, other: Slots) -> None:
    assert (tree_of(one).root == tree_of(other).root) == (one == other)


@pytest.mark.parametrize("count", [0, 1, BUCKET, BUCKET + 1, 300])
def test_emptying_every_slot_leaves_the_empty_root(count: int) -> None:
    tree = tree_of({slot(each): value(each) for each in range(count)})
    assert (tree.root == EMPTY) == (count == 0)
    for each in range(count):
        tree = tree.without(slot(each)).without(slot(each))
    assert tree.root == EMPTY == Tree[Item]().root
    assert len(tree) == 0


def test_swapping_two_objects_changes_the_root() -> None:
    one = tree_of({slot(1): value(1), slot(2): value(2)})
    assert one.root != tree_of({slot(1): value(2), slot(2): value(1)}).root


@given(contents, st.lists(st.tuples(slots, st.none() | st.builds(value, st.integers(0, 3)))))
def test_a_tree_is_unchanged_by_what_is_made_of_it(
    content: Slots, changes: list[tuple[bytes, Item | None]]
) -> None:
    tree, expected = tree_of(content), dict(content)
    made: list[tuple[Tree[Item], Slots]] = [(tree, dict(expected))]
    for each, held in changes:
        if held is None:
            tree = tree.without(each)
            expected.pop(each, None)
        else:
            tree = tree.put(each, held)
            expected[each] = held
        made.append((tree, dict(expected)))
    for earlier, held_then in made:
        assert content_of(earlier) == held_then
        assert earlier.root == tree_of(held_then).root


@given(contents, slots, st.builds(value, st.integers(0, 3)))
def test_a_change_that_changes_nothing_makes_no_other_tree(
    content: Slots, where: bytes, held: Item
) -> None:
    tree = tree_of(content)
    assert (tree.put(where, held) is tree) == (content.get(where) == held)
    assert (tree.without(where) is tree) == (where not in content)


def test_a_tree_shares_all_but_one_path_with_the_tree_it_was_made_of() -> None:
    def subtrees(below: Subtree) -> list[Subtree]:
        if isinstance(below, Bucket):
            return [below]
        return [below, *(each for child in below.children for each in subtrees(child))]

    before = tree_of({slot(each): value(each) for each in range(3000)})
    for after in (before.put(slot(7), value(-1)), before.without(slot(7))):
        old = {id(each) for each in subtrees(before.top)}
        fresh = [each for each in subtrees(after.top) if id(each) not in old]
        assert 1 <= len(fresh) <= 4  # 16^2 < 3000 slots / 16 < 16^3


@given(contents)
def test_every_subtree_is_seen_by_the_hash_that_its_parent_names(content: Slots) -> None:
    tree = tree_of(content)

    def check(path: bytes) -> Slots:
        seen = tree.look(path)
        if isinstance(seen, Bucket):
            assert len(seen.slots) <= BUCKET
            assert list(seen.slots) == sorted(seen.slots)
            return dict(seen.slots)
        found: Slots = {}
        for digit, child in enumerate(seen.children):
            below = path + bytes([digit])
            assert tree.look(below).hash == child.hash
            found |= check(below)
        assert len(found) > BUCKET
        return found

    assert check(b"") == content


@given(contents, st.lists(st.integers(0, 15), max_size=23).map(bytes))
def test_a_look_sees_what_is_below_a_path_and_nothing_else(content: Slots, path: bytes) -> None:
    below = {each: held for each, held in content.items() if digits(each)[: len(path)] == path}
    seen = tree_of(content).look(path)
    assert sorted(all_slots(seen)) == sorted(below)
    assert sum(seen.counts) == len(below)


def digits(each: bytes) -> bytes:
    return bytes(int(digit, 16) for digit in each.hex())


@given(contents, slots, st.integers(0, 23))
def test_items_from_a_slot_on_come_in_order_and_none_is_left_out(
    content: Slots, start: bytes, depth: int
) -> None:
    path = digits(start)[:depth]
    wanted = [
        content[each] for each in sorted(content) if each >= start and digits(each)[:depth] == path
    ]
    assert list(tree_of(content).from_slot(path, start)) == wanted


@given(contents)
def test_the_slots_of_one_kind_are_a_list_with_an_order(content: Slots) -> None:
    tree = tree_of(content)
    assert list(tree) == [content[each] for each in sorted(content)]
    for kind in range(1, KINDS + 1):
        listed = sorted(each for each in content if each[-1] == kind)
        assert tree.count(kind) == len(listed)
        assert [tree.rank(each) for each in listed] == list(range(len(listed)))
        assert [tree.nth(kind, number) for number in range(len(listed))] == [
            content[each] for each in listed
        ]
        for number in (-1, len(listed)):
            with pytest.raises(IndexError):
                tree.nth(kind, number)


@given(contents, slots)
def test_the_rank_of_an_empty_slot_is_where_it_would_stand(content: Slots, where: bytes) -> None:
    before = [each for each in content if each < where and each[-1] == where[-1]]
    assert tree_of(content).rank(where) == len(before)


def walk(ours: Tree[Item], theirs: Tree[Item]) -> tuple[set[bytes], int]:
    """The slots in which they hold something else than we, and the subtrees that were shown."""
    paths, different, shown = [b""], set(), 0
    while paths:
        path = paths.pop()
        seen = theirs.look(path)
        shown += 1
        if seen.hash == ours.look(path).hash:
            continue
        if isinstance(seen, Branch):
            below = [path + bytes([digit]) for digit in range(16)]
            pairs = zip(below, seen.children, strict=True)
            paths += [each for each, child in pairs if ours.look(each).hash != child.hash]
        else:
            different |= {each for each, held in seen.slots.items() if ours.get(each) != held}
    return different, shown


@given(contents, contents)
def test_a_walk_finds_exactly_what_differs(one: Slots, other: Slots) -> None:
    found, _ = walk(tree_of(one), tree_of(other))
    assert found == {each for each, held in other.items() if one.get(each) != held}
    found, _ = walk(tree_of(other), tree_of(one))
    assert found == {each for each, held in one.items() if other.get(each) != held}


def test_a_walk_costs_what_differs_and_not_what_there_is() -> None:
    ours = tree_of({slot(each): value(each) for each in range(5000)})
    assert walk(ours, ours) == (set(), 1)
    theirs = ours.put(slot(77), value(-1))
    assert walk(ours, theirs) == ({slot(77)}, 4)  # 16^3 < 5000 slots / 16 < 16^4
