"""The protocol's referee: the real ``Node`` by the thousand, in virtual time.

``network`` and ``host`` are the machines, ``links`` what is between them, ``wire`` what lets
thousands share the work, ``referee`` and ``rules`` what must be true of every run, ``faults``
what goes wrong; tests build meshes out of these.  ``scenarios`` are the runs that
``scripts/simulate`` measures, ``report`` and ``plot`` what it makes of them.
"""

from simulation.faults import Churn
from simulation.host import Costs, Disk, Host
from simulation.links import Delay, Filter, Links, between, dead_links, one_way
from simulation.network import Network
from simulation.referee import InvariantBroken
from simulation.rules import Rules, decision

__all__ = [
    "Churn",
    "Costs",
    "Delay",
    "Disk",
    "Filter",
    "Host",
    "InvariantBroken",
    "Links",
    "Network",
    "Rules",
    "between",
    "dead_links",
    "decision",
    "one_way",
]
