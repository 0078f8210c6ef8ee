"""Tokens, for the three grammars: words and punctuation, each with its line."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, ip_address
from typing import Final, NamedTuple

_PUNCTUATION: Final = '!,{}/=;()*"'


class Token(NamedTuple):
    """A word or a sign of a file, and the line that it stands in."""

    text: str
    line: int


class Wrong(Exception):
    """A file is not accepted: what is printed, without the program's name."""


class Words:
    """The tokens of one file, taken one after the other. Newlines are white space."""

    def __init__(self, text: str, colons: bool = True) -> None:
        """``colons``: whether one ends a word; it does not where words may be IPv6."""
        marks = re.escape(_PUNCTUATION + (":" if colons else ""))
        token = re.compile(rf"->|[{marks}]|[^\s{marks}]+")
        self._tokens: list[Token] = []
        for number, line in enumerate(text.split("\n"), 1):
            bare = line.partition("#")[0]
            self._tokens += [Token(each, number) for each in token.findall(bare)]
        self._at = 0
        self._last = text.count("\n") + 1

    def __bool__(self) -> bool:
        return self._at < len(self._tokens)

    def peek(self, ahead: int = 0) -> str:
        """The next token, or nothing at the end."""
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def take(self) -> str:
        text = self.peek()
        self._at += 1
        return text

    def accept(self, *texts: str) -> bool:
        """Take ``texts`` if they come next."""
        if all(self.peek(number) == text for number, text in enumerate(texts)):
            self._at += len(texts)
            return True
        return False

    def expect(self, *texts: str) -> None:
        for text in texts:
            if self.peek() != text:
                raise self.wrong()
            self._at += 1

    def wrong(self, kind: str = "syntax error") -> Wrong:
        """The next token is wrong. (The word "error" is doubled by the real ones too.)"""
        at = min(self._at, len(self._tokens))
        line = self._tokens[at].line if at < len(self._tokens) else self._last
        return Wrong(f'{kind} error at "{self.peek()}", line {line}')

    def number(self) -> int:
        if not self.peek().isdecimal():
            raise self.wrong()
        return int(self.take())


def is_address(text: str) -> bool:
    """Whether the tools take it for one without asking a name server."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def prefix4(words: Words) -> str:
    """``A[/len|/mask]``, ``0/N`` or ``any``: ADDRESS/LEN with the bits that were written."""
    if words.accept("any"):
        return "0.0.0.0/0"
    text = words.peek()
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise words.wrong()
    if text.isdecimal():
        address = str(IPv4Address(int(text) << 24 if int(text) < 256 else int(text)))
    elif is_address(text) and "." in text:
        address = text
    else:
        raise words.wrong("Unknown hostname")
    words.take()
    length = 32
    if words.accept("/"):
        mask = words.peek()
        if mask.isdecimal() and int(mask) <= 32:
            length = int(mask)
        else:
            try:
                length = f"{int(IPv4Address(mask)):032b}".count("1")
            except AddressValueError:
                raise words.wrong() from None
        words.take()
    return f"{address}/{length}"
