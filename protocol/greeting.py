"""HELLOs that ask: to whom, how often, until when.

A *node* that answered with STALE is greeted again and again until its HELLO has come, for
what waits for it.  An *address* (a seed, or where a member was before we started) is
greeted once; while we know nobody live, again and again, until we do: an answer alone is
not enough, for what follows it may be lost.  Each wait is drawn at random around its
length, so that a thousand nodes that started together do not come back together
("Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from protocol.address import Endpoint
from protocol.members import Common
from protocol.timers import Timer
from protocol.tuning import MAX_CANDIDATES


@attrs.define(eq=False)
class _Greeting:
    to: Endpoint
    began: float
    delay: float
    timer: Timer


class Greetings:
    """The asking HELLOs of one node; ``say`` sends one."""

    def __init__(
        self,
        common: Common,
        *,
        say: Callable[[Endpoint], None],
        given_up: Callable[[bytes], None],
    ) -> None:
        self._common, self._say, self._given_up = common, say, given_up
        self._nodes: dict[bytes, _Greeting] = {}
        self._addresses: dict[Endpoint, _Greeting] = {}
        self._asked: dict[Endpoint, None] = {}
        """Where we asked and have had no answer from yet."""

    def ask(self, to: Endpoint) -> None:
        """One HELLO that asks."""
        self._asked.pop(to, None)
        if len(self._asked) >= MAX_CANDIDATES:
            del self._asked[next(iter(self._asked))]
        self._asked[to] = None
        self._say(to)

    def answered(self, source: Endpoint) -> bool:
        """True, once, when we had asked at ``source``."""
        if source not in self._asked:
            return False
        del self._asked[source]
        return True

    def greet_address(self, to: Endpoint, now: float) -> None:
        """Ask at ``to`` now, and again while we know nobody live."""
        if to in self._addresses:
            return
        if self._alone():
            first = self._common.tuning.hello_first
            timer = self._after(first, now, lambda now: self._address_again(to, now))
            self._addresses[to] = _Greeting(to, now, first, timer)
        self.ask(to)

    def only(self, addresses: Iterable[Endpoint]) -> None:
        """Greet no address any longer but these."""
        wanted = dict.fromkeys(addresses)
        for to in [each for each in self._addresses if each not in wanted]:
            self._addresses.pop(to).timer.cancel()

    def _address_again(self, to: Endpoint, now: float) -> None:
        if not self._alone():
            del self._addresses[to]
            return
        greeting = self._addresses[to]
        greeting.delay = min(2 * greeting.delay, self._common.tuning.hello_max)
        greeting.timer = self._after(greeting.delay, now, lambda now: self._address_again(to, now))
        self.ask(to)

    def _alone(self) -> bool:
        return not any(member.live for member in self._common.members.values())

    def greet_node(self, node: bytes, to: Endpoint, now: float) -> None:
        """Ask ``node`` at ``to`` now, and again until ``heard`` or ``greeting_lifetime``."""
        if node in self._nodes:
            return
        first = self._common.tuning.hello_first
        timer = self._after(first, now, lambda now: self._node_again(node, now))
        self._nodes[node] = _Greeting(to, now, first, timer)
        self.ask(to)

    def _node_again(self, node: bytes, now: float) -> None:
        greeting = self._nodes[node]
        if now - greeting.began > self._common.tuning.greeting_lifetime:
            del self._nodes[node]
            self._given_up(node)
            return
        greeting.delay *= 2
        greeting.timer = self._after(greeting.delay, now, lambda now: self._node_again(node, now))
        self.ask(greeting.to)

    def heard(self, node: bytes) -> None:
        """``node`` has answered, or is not to be greeted any more."""
        greeting = self._nodes.pop(node, None)
        if greeting is not None:
            greeting.timer.cancel()

    def stop(self) -> None:
        """Greet nobody any longer."""
        self.only(())
        for node in list(self._nodes):
            self.heard(node)

    def _after(self, delay: float, now: float, call: Callable[[float], None]) -> Timer:
        jitter = 0.5 + self._common.rng.random()
        return self._common.timers.after(delay * jitter, now, call)
