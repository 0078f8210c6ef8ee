"""HELLOs that ask: to whom, how often, until when.

A *node* that answered with STALE is greeted again and again until its HELLO has come, for
what waits for it.  An *address* (a seed, or where a member was before we started) is
greeted once; while we know nobody live, again and again, until we do: after its answer by
what is to follow, which may be lost too.  Each wait is drawn at random around its
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
    timer: Timer | None = None
    answered_by: bytes | None = None
    """The node that said HELLO at this address."""

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Greetings:
    """The asking HELLOs of one node."""

    def __init__(
        self,
        common: Common,
        *,
        say: Callable[[Endpoint], None],
        speak: Callable[[bytes, float], bool],
        given_up: Callable[[bytes], None],
    ) -> None:
        """``say`` sends a HELLO that asks; ``speak`` a sealed message to a node that has
        answered, or returns False; ``given_up`` is told of a node that did not answer."""
        self._common = common
        self._say, self._speak, self._given_up = say, speak, given_up
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

    def awaits(self, source: Endpoint) -> bool:
        """Whether we asked at ``source`` and have had no HELLO from there yet."""
        return source in self._asked

    def answered(self, source: Endpoint, node: bytes, now: float) -> bool:
        """``node`` said HELLO from ``source``. True, once, when we had asked there."""
        if source not in self._asked:
            return False
        del self._asked[source]
        greeting = self._addresses.get(source)
        if greeting is not None and greeting.answered_by != node:
            greeting.stop()
            greeting.answered_by, greeting.delay = node, self._common.tuning.hello_first
            self._address_later(greeting, now)
        return True

    def greet_address(self, to: Endpoint, now: float) -> None:
        """Ask at ``to`` now, and again while we know nobody live."""
        if to in self._addresses:
            return
        if self._alone():
            greeting = self._addresses[to] = _Greeting(to, now, self._common.tuning.hello_first)
            self._address_later(greeting, now)
        self.ask(to)

    def only(self, addresses: Iterable[Endpoint]) -> None:
        """Greet no address any longer but these."""
        wanted = dict.fromkeys(addresses)
        for to in [each for each in self._addresses if each not in wanted]:
            self._addresses.pop(to).stop()

    def _address_later(self, greeting: _Greeting, now: float) -> None:
        self._after(greeting, now, self._address_again)

    def _address_again(self, greeting: _Greeting, now: float) -> None:
        if not self._alone():
            del self._addresses[greeting.to]
            return
        greeting.delay = min(2 * greeting.delay, self._common.tuning.hello_max)
        self._address_later(greeting, now)
        node = greeting.answered_by
        if node is None or not self._speak(node, now):
            self.ask(greeting.to)

    def _alone(self) -> bool:
        return not self._common.members.live

    def greet_node(self, node: bytes, to: Endpoint, now: float) -> None:
        """Ask ``node`` at ``to`` now, and again until ``heard`` or ``greeting_lifetime``."""
        if node in self._nodes:
            return
        greeting = _Greeting(to, now, self._common.tuning.hello_first)
        self._nodes[node] = greeting
        self._node_later(node, greeting, now)
        self.ask(to)

    def _node_later(self, node: bytes, greeting: _Greeting, now: float) -> None:
        def again(greeting: _Greeting, now: float) -> None:
            if now - greeting.began > self._common.tuning.greeting_lifetime:
                del self._nodes[node]
                self._given_up(node)
                return
            greeting.delay *= 2
            self._node_later(node, greeting, now)
            self.ask(greeting.to)

        self._after(greeting, now, again)

    def heard(self, node: bytes) -> None:
        """``node`` has answered, or is not to be greeted any more."""
        greeting = self._nodes.pop(node, None)
        if greeting is not None:
            greeting.stop()

    def stop(self) -> None:
        """Greet nobody any longer."""
        self.only(())
        for node in list(self._nodes):
            self.heard(node)

    def _after(
        self, greeting: _Greeting, now: float, call: Callable[[_Greeting, float], None]
    ) -> None:
        delay = greeting.delay * (0.5 + self._common.rng.random())
        greeting.timer = self._common.timers.after(delay, now, lambda now: call(greeting, now))
