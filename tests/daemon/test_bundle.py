"""A bundle: whole and in order, or one clear line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.authority import bundle
from meshd.errors import UsageError

RAWS = [b"one", b"\0" * 440, b"\xff\xfe", b"x"]
TEXT = bundle.dump(RAWS, "generation 1")


def told(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        bundle.load(text, "FILE")
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("FILE")
    return str(caught.value)


def test_a_bundle_holds_what_it_was_made_of_in_that_order() -> None:
    assert bundle.load(TEXT, "FILE") == RAWS
    assert TEXT.startswith("# generation 1\n")
    assert TEXT.isascii()


def test_blank_lines_remarks_and_what_follows_do_not_matter() -> None:
    spread = "\r\n\r\n# from a mail\r\n".join(TEXT.splitlines())
    assert bundle.load(f"\n  \n{spread}\n--\nregards\n", "FILE") == RAWS


def test_every_altered_character_is_noticed() -> None:
    start = TEXT.index("\n") + 1
    for at in range(start, len(TEXT) - 1):
        for new in "A_ \n?é":
            if new != TEXT[at]:
                altered = TEXT[:at] + new + TEXT[at + 1 :]
                if altered.split() != TEXT.split():
                    told(altered)


def test_every_missing_or_exchanged_line_is_noticed() -> None:
    lines = TEXT.splitlines()
    for at in range(1, len(lines)):
        assert "copy" in told("\n".join(lines[:at] + lines[at + 1 :]))
    lines[1], lines[2] = lines[2], lines[1]
    assert "lines of the bundle are missing; copy it again, whole" in told("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "FILE is empty; give what a command of meshd wrote"),
        ("# nothing\n", "FILE is empty"),
        (bundle.dump([]), "FILE is empty"),
        ("meshd1-AAAA\n", "line 1 is none of a bundle's, which start with meshd1o-; give what"),
        ("\n\x1b[31m\n", "line 2 is none of a bundle's"),
        ("meshd1o-AAAA\n", "line 1 is incomplete or altered; copy the bundle again, whole"),
        (TEXT.partition("meshd1o-end")[0], "the bundle's end is missing; copy it again, whole"),
    ],
)
def test_what_is_no_bundle_is_one_line(text: str, said: str) -> None:
    assert said in told(text)


@given(
    st.one_of(
        st.text(),
        st.lists(st.text().map(bundle.PREFIX.__add__)).map("\n".join),
        st.lists(st.sampled_from([*TEXT.splitlines()[:-1], "", "#", "x"]), max_size=9).map(
            lambda lines: "\n".join([*lines[1:], *lines[:1]])
        ),
    )
)
def test_any_text_is_a_bundle_or_one_line(text: str) -> None:
    told(text)  # none of these has an end


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=20))
def test_whatever_is_put_in_comes_out(raws: list[bytes]) -> None:
    assert bundle.load(bundle.dump(raws), "FILE") == raws
