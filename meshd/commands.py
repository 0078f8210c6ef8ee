"""The commands: each asks for one thing, prints what came of it, returns its exit code.

Parsed options come in, and ``UsageError`` or ``Refused`` go out.  What a command needs is
imported inside it: one that only talks to the control socket must start fast, so neither
trio, cryptography nor attrs may be loaded with this module (a test watches over that).
"""

# ruff: noqa: PLC0415 (for the reason above)

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from meshd import client, text
from meshd.errors import Refused, UsageError
from meshd.paths import Paths

if TYPE_CHECKING:
    from meshd.authority.terms import GrantTerms
    from meshd.world import World

DONE: Final = 0

CHANGE_TIMEOUT: Final = 60.0
"""Seconds for the daemon to write a change into the kernel and send it on its way."""
LEAVE_TIMEOUT: Final = 120.0
"""Seconds for a departure to reach all live members, the failing ones given up on."""


# -- commands that make a node: they need the protocol, and load it ---------------------------


def world() -> World:
    """The clock and chance of this process."""
    import time

    from meshd.world import World

    return World(time.time, os.urandom)


def terms(options: argparse.Namespace) -> GrantTerms:
    """The grant options of ``init``, ``invite`` and ``grant``."""
    from meshd.authority.terms import GrantTerms

    return GrantTerms(**given_terms(options))


def given_terms(options: argparse.Namespace) -> dict[str, Any]:
    """Those grant options that were given, as fields of ``GrantTerms``."""
    from meshd import values

    given = {
        "allow": tuple(read("--allow", values.prefix, options.allow)),
        "at": tuple(read("--at", values.prefix_or_address, options.at)),
        "limit": _limit(options.limit) if options.limit is not None else None,
        "until": _until(options.until) if options.until is not None else None,
    }
    return {name: value for name, value in given.items() if value not in ((), None)}


def _limit(value: str) -> int:
    return 0 if value == "none" else _whole("--limit", value, 1, 1_000_000)


def _until(value: str) -> int:
    from meshd import values

    return 0 if value == "never" else int(read("--until", values.until, [value])[0])


def init(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd init``: a new mesh, and what to do next."""
    from meshd import founding, values

    mesh, node = founding.init(
        paths,
        world(),
        name=options.name,
        announce=read("--announce", values.announced, options.announce),
        pool=read("--pool", values.prefix, options.pool),
        advertise=read("--advertise", values.advertised, options.advertise),
        terms=terms(options),
    )
    print(
        f"mesh {mesh.id.hex()} made, with this node as its first member:"
        f" {options.name} {node.public.hex()}\n"
        f"  config              {paths.config}\n"
        f"  this node's key     {paths.state / 'node.key'}\n"
        f"  authority's key     {paths.state / 'authority.key'}\n"
        f"  next authority key  {paths.state / 'authority-next.key'}\n"
        "\n"
        "Move authority-next.key to another place, offline: it alone can take over the mesh\n"
        "should authority.key be lost or stolen, and here both would be stolen together.\n"
        "\n"
        "Next:\n"
        f"  meshd{paths.option} run            start the daemon on this router\n"
        f"  meshd{paths.option} invite NAME    a token for the next router (while it runs)"
    )
    return DONE


def join(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd join``: this host becomes the member that a token names."""
    from meshd import founding, values

    invitation = founding.join(
        paths,
        world(),
        _read_token() if options.token == "-" else options.token,
        announce=read("--announce", values.announced, options.announce),
        advertise=read("--advertise", values.advertised, options.advertise),
    )
    print(
        f"this node is {invitation.grant.name} {invitation.grant.node.hex()}"
        f" of mesh {invitation.mesh.id.hex()}\n"
        f"  config           {paths.config}\n"
        f"  this node's key  {paths.state / 'node.key'}\n"
        "\n"
        "The token has served: remove it where you kept it. Next:\n"
        f"  meshd{paths.option} run    start the daemon on this router"
    )
    return DONE


def _read_token() -> str:
    if sys.stdin.isatty():
        print("meshd: paste the token, then press Enter", file=sys.stderr)
        return sys.stdin.readline()
    # Longer than any token, whose text is cut at 4,096 characters.
    return sys.stdin.buffer.read(65536).decode("ascii", "replace")


def run(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd run``: the daemon, until it is stopped or has left."""
    import time

    from meshd import values
    from meshd.daemon import run
    from meshd.startup import Additions, prepare

    additions = Additions(
        tuple(read("--seed", values.seed, options.seed)),
        tuple(read("--announce", values.announced, options.announce)),
        tuple(read("--advertise", values.advertised, options.advertise)),
        options.observe,
    )
    return run(prepare(paths, additions, options.log_format, time.time))


def purge(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd purge``: take everything of ours out of this kernel, and off this disk if asked."""
    from meshd import purge as purging

    doomed = purging.doomed(paths) if options.state else []
    if doomed and not options.yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this would remove {' and '.join(doomed)}; add --yes to do it")
        print(f"remove {' and '.join(doomed)}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Refused("nothing removed")
    lines = purging.purge_kernel(paths)
    print("\n".join(lines) if lines else "nothing of ours was in the kernel")
    if doomed:
        print("\n".join(purging.purge_state(paths)))
    return DONE


def import_zap(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd import-zap``: subnets, address and NAT of a router zone into this node's config."""
    from pathlib import Path

    from meshd.zap import command, records

    proposal = command.propose(paths, Path(options.root), options.zone)
    print("\n".join(proposal.shown()))
    needed = records.needed(proposal.router, proposal.form)
    print("".join(f"\n{line}" for line in ["", *needed] if needed), end="\n" if needed else "")
    if not proposal.changed:
        print(f"\n{paths.config} says all of that already")
        return DONE
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this would change {paths.config}; add --yes to do it")
        print(f"\nwrite that to {paths.config}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Refused("nothing written")
    command.write(paths, proposal)
    print(f"\nwritten to {paths.config}; restart the daemon if it runs")
    return DONE


def doctor(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd doctor``: what on this host breaks routing."""
    from meshd.doctor.command import run

    return run(options, paths)


def read(option: str, reader: Callable[[str], Any], texts: Sequence[str]) -> list[Any]:
    """Each of ``texts`` as ``reader`` takes it; an error names the option."""
    found = []
    for item in texts:
        try:
            found.append(reader(item))
        except UsageError as error:
            raise UsageError(f"{option}: {error}") from None
    return found


def _whole(option: str, value: str, low: int, high: int) -> int:
    if not (
        value.isascii() and value.isdecimal() and len(value) < 10 and low <= int(value) <= high
    ):
        raise UsageError(f"{option}: {value[:40]!a} is no whole number from {low} to {high}")
    return int(value)


# -- commands that only talk to the control socket ---------------------------------------------


def show(method: str, layout: Callable[[Any], str]) -> Callable[[argparse.Namespace, Paths], int]:
    """A command that asks one method and lays its answer out with ``layout``."""

    def run(options: argparse.Namespace, paths: Paths) -> int:
        result = client.call(paths, method)
        print(text.to_json(result) if options.json else layout(result))
        return DONE

    return run


def watch(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd watch``: events, until interrupted."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    with client.Connection(paths, 10.0) as connection:
        connection.call("watch")
        for event in connection.events():
            print(
                text.to_json(event) if options.json else text.event_line(event, colour), flush=True
            )
    return DONE


def change(method: str) -> Callable[[argparse.Namespace, Paths], int]:
    """``meshd announce`` and ``withdraw``."""

    def run(options: argparse.Namespace, paths: Paths) -> int:
        result = client.call(paths, method, {"prefixes": options.prefixes}, CHANGE_TIMEOUT)
        print("this node announces:", text.field(result["local"]).replace(",", " "))
        for line in (line for each in result.get("asked", ()) for line in text.left_out(each)):
            print(f"left out: {line}", file=sys.stderr)
        return DONE

    return run


def leave(_options: argparse.Namespace, paths: Paths) -> int:
    """``meshd leave``: returns when the daemon has ended."""
    with client.until_it_ends(paths):  # so that `meshd leave && meshd purge` works
        client.call(paths, "leave", timeout=LEAVE_TIMEOUT)
    print(f"this node has left the mesh; to come back: meshd{paths.option} run")
    return DONE


def reload(_options: argparse.Namespace, paths: Paths) -> int:
    """``meshd reload``: what changed, by the options' names."""
    result = client.call(paths, "reload", timeout=CHANGE_TIMEOUT)
    print("changed:", text.field(result["changed"]).replace(",", " "))
    return DONE


def explain(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd explain``: why a prefix or a node is as it is."""
    result = client.call(paths, "explain", {"of": options.subject})
    print(text.to_json(result) if options.json else text.explanation(result))
    return DONE


def plan(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd plan``: the steps that would be taken now."""
    result = client.call(paths, "plan")
    print(text.to_json(result) if options.json else text.plan(result))
    return DONE


def wait(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd wait``: until all that is asked for holds; ``Refused`` when not in time."""
    prefixes = []
    if options.prefix:
        from meshd import values

        prefixes = [str(prefix) for prefix in read("--prefix", values.prefix, options.prefix)]
    peers = None if options.peers is None else _whole("--peers", options.peers, 0, 100_000)
    try:
        timeout = float(options.timeout)
    except ValueError:
        timeout = -1.0
    if not 0 <= timeout <= 10_000_000:
        raise UsageError(f"--timeout: {options.timeout[:40]!a} is no number of seconds; write 30")
    client.wait(paths, peers, prefixes, options.converged, timeout)
    return DONE
