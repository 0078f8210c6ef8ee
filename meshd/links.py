"""Whether this host's links have changed so that who was silent may answer now."""

from __future__ import annotations

from meshd.kernel.state import Interface


class Links:
    """This host's interfaces as they were when they were looked at last."""

    def __init__(self) -> None:
        self._interfaces: tuple[Interface, ...] = ()

    def opened(self, interfaces: tuple[Interface, ...]) -> bool:
        """Whether one of ``interfaces`` can send that could not, or from an address that it
        could not: a cable is in again, the switch at its other end is up, an address was given.
        """
        before, self._interfaces = self._interfaces, interfaces
        if before is interfaces:
            return False
        known = {(each.index, each.name): _sources(each) for each in before}
        return any(
            _sources(each) - known.get((each.index, each.name), set()) for each in interfaces
        )


def _sources(interface: Interface) -> set[object]:
    """The addresses that can be sent from there; none while it has no carrier."""
    if not interface.up or not interface.carrier:
        return set()
    return {each for each in interface.addresses if each.ip not in interface.tentative}
