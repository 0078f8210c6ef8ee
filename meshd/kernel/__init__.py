"""The kernel behind one narrow port: the ``state`` it is about, the pure ``plan``, backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshd.kernel.port import Backend


def backend(name: str, *, metric: int, nat: str, tunnel_port: int = 0) -> Backend:
    """The backend called ``name`` (an option value that the config has checked, as ``nat`` is);
    ``tunnel_port`` is 0 where there is to be no tunnel.

    Only what is asked for is loaded: another system's backend may not even import here.
    """
    nat = "exempt" if nat == "auto" else nat
    if name == "linux":
        from meshd.kernel.linux import Linux  # noqa: PLC0415

        return Linux(metric, nat, tunnel_port)
    from meshd.kernel.memory import Memory  # noqa: PLC0415

    return Memory(metric=metric, nat=nat, tunnel_port=tunnel_port)
