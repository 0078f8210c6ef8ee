"""The kernel behind one narrow port: the ``state`` it is about, the pure ``plan``, backends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshd.errors import UsageError

if TYPE_CHECKING:
    from meshd.kernel.illumos.options import Options
    from meshd.kernel.port import Backend

ILLUMOS_NAT: Final = ("ippool", "ipnat")
"""Values of ``nat`` that mean something there only."""


def backend(
    name: str,
    *,
    metric: int,
    nat: str,
    tunnel_port: int = 0,
    illumos: Options | None = None,
    state: Path | None = None,
) -> Backend:
    """The backend called ``name`` (an option value that the config has checked, as ``nat`` is);
    ``tunnel_port`` is 0 where there is to be no tunnel; ``illumos`` are the options of that name,
    and ``state`` is where that one keeps its journal. ``UsageError`` when they do not go together.

    Only what is asked for is loaded: another system's backend may not even import here.
    """
    if name == "illumos":
        from meshd.kernel.illumos.backend import Illumos  # noqa: PLC0415

        if tunnel_port:
            raise UsageError('tunnel = "vxlan" is not for illumos; docs/illumos.md, tunnels')
        return Illumos(nat, illumos, state)
    if nat in ILLUMOS_NAT:
        raise UsageError(f'nat = "{nat}" is for illumos; "auto" is this system\'s way')
    nat = "exempt" if nat == "auto" else nat
    if name == "linux":
        from meshd.kernel.linux import Linux  # noqa: PLC0415

        return Linux(metric, nat, tunnel_port)
    from meshd.kernel.memory import Memory  # noqa: PLC0415

    return Memory(metric=metric, nat=nat, tunnel_port=tunnel_port)
