"""``meshd import-zap``: look, show, ask, write."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from meshd import config as configuration
from meshd.config import Config
from meshd.errors import UsageError
from meshd.files import replace_file
from meshd.paths import Paths
from meshd.zap import records, tomledit
from meshd.zap.records import Form, Router


@attrs.frozen
class Proposal:
    """What would be written, and what it comes from."""

    router: Router
    form: Form
    text: str
    """The whole file."""
    changed: tuple[str, ...]
    """The options that change, as they would stand."""

    def shown(self) -> list[str]:
        """For people, a line each."""
        router, form = self.router, self.form
        found = [
            f"router zone {router.zone}, files in {router.root}",
            f"subnets {' '.join(records.announced(router))}",
            f"address {router.public or 'not recorded: it will be found out'}",
            f'nat = "{form.nat}": {form.why}',
        ]
        if self.changed:
            found += ["", *self.changed]
        return found


def propose(paths: Paths, root: Path, zone: str | None) -> Proposal:
    """From the records under ``root``. ``UsageError`` when they, or the config, will not do."""
    found = records.routers(root)
    names = [router.zone for router in found]
    if zone is None and len(found) > 1:
        raise UsageError(f"there are several router zones: name one with --zone: {' '.join(names)}")
    chosen = [router for router in found if zone in (None, router.zone)]
    if not chosen:
        raise UsageError(f"there is no router zone {zone}; there is {' '.join(names)}")
    (router,) = chosen
    form = records.form(router)
    if not paths.config.exists():
        given = "".join(f" --announce {subnet}" for subnet in records.announced(router))
        given += "".join(f" --advertise {where}" for where in records.address(router))
        raise UsageError(
            f"{paths.config} does not exist; make the node first, then import its NAT:"
            f" meshd{paths.option} join TOKEN{given}"
        )
    before = configuration.load(paths.config)
    text = paths.config.read_text(encoding="utf-8")
    top = {
        "announce": json.dumps(records.announced(router)),
        "advertise": json.dumps(records.address(router)),
        "nat": json.dumps(form.nat),
    }
    if not records.address(router):
        del top["advertise"]
    inside = {"interface": json.dumps(form.interface), "pool": str(form.pool)}
    after = tomledit.put(text, top)
    if form.nat != "off":
        after = tomledit.put(after, inside, "illumos")
    made = configuration.parse(after, str(paths.config))
    return Proposal(router, form, after, tuple(_differences(before, made)))


def _differences(before: Config, after: Config) -> list[str]:
    found = []
    for name in ("announce", "advertise", "nat"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            shown = new if isinstance(new, str) else [str(each) for each in new]
            found.append(f"{name} = {json.dumps(shown)}")
    for name in ("interface", "pool"):
        old, new = getattr(before.illumos, name), getattr(after.illumos, name)
        if old != new:
            found.append(f"illumos.{name} = {json.dumps(new)}")
    return found


def write(paths: Paths, proposal: Proposal) -> None:
    """Put it in the place of the config, whole or not at all."""
    mode = paths.config.stat().st_mode & 0o777
    replace_file(paths.config, proposal.text.encode(), mode)
