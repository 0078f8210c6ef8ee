"""The commands that use the authority's key, and those that hand on what it signed.

As in ``commands``: parsed options come in, ``UsageError`` or ``Refused`` go out, and what a
command needs is imported inside it, for some only talk to the socket.  What was signed is in
the ledger by then, so where no daemon can be reached it goes to standard output, to be
carried to one.
"""

# ruff: noqa: PLC0415 (for the reason above)

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from meshd import client, text
from meshd.authority import delivery
from meshd.client import NoDaemon
from meshd.errors import Refused, UsageError
from meshd.paths import Paths

if TYPE_CHECKING:
    from meshd.authority.office import Holder
    from meshd.authority.succession import Made, Plan
    from meshd.invitation import Invitation

DONE: Final = 0

_NAMED: Final = 8
"""Members that a line names at most, before it only counts."""


# -- tokens ---------------------------------------------------------------------------------------


def key(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd key``: this host's public key, made if there is none."""
    from meshd import founding
    from meshd.commands import world

    public = founding.key(paths, world()).public.hex()
    print(public, flush=True)
    _say(
        f"this is the public key of {paths.state / 'node.key'}, and no secret",
        f"where the authority's key is: meshd grant {public} --name NAME",
        f"then here: meshd{paths.option} join - --announce SUBNET, and paste what that printed",
    )
    return DONE


def invite(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd invite``: a token with the new member's secret in it."""
    from meshd import values

    def give(holder: Holder, **given: Any) -> Invitation:
        return holder.invite(name=options.name, **given)

    invitation = _give(options, paths, give)
    name = options.name
    _say(
        f"this token is a secret: it holds the key of {name}. Who has it can be {name}.",
        f"valid until {values.moment(invitation.valid_until)}; {name} may announce inside"
        f" {_allowed(invitation)}.",
        "on the new router: meshd join - --announce SUBNET, and paste it there; then: meshd run",
    )
    return DONE


def grant(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd grant``: a token for a key that was made elsewhere."""
    from meshd import values
    from meshd.authority.office import public_key

    node = public_key(options.key)

    def give(holder: Holder, **given: Any) -> Invitation:
        return holder.grant(node, name=options.name, **given)

    invitation = _give(options, paths, give)
    _say(
        "this token is no secret: it serves only the host that has the key.",
        f"valid until {values.moment(invitation.valid_until)}; {options.name} may announce inside"
        f" {_allowed(invitation)}.",
        "on that host: meshd join - --announce SUBNET, and paste it there; then: meshd run",
    )
    if options.tell:
        outcomes = delivery.deliver(paths, [invitation.grant.raw])
        _check(outcomes)
        _say("the mesh was told: it is a member again within a minute or two, if it runs")
    return DONE


def _give(options: argparse.Namespace, paths: Paths, give: Callable[..., Invitation]) -> Invitation:
    from meshd import values
    from meshd.authority import office
    from meshd.commands import read, terms, world

    (valid,) = read("--valid", values.duration, [options.valid])
    wanted, seeds = terms(options), read("--seed", values.seed, options.seed)
    with office.held(paths, world(), _file(options.authority)) as holder:
        found = office.seeds_for_token(paths, holder.config, seeds)
        invitation = give(holder, valid=valid, terms=wanted, seeds=found)
    print(invitation.encode(), flush=True)
    return invitation


def _allowed(invitation: Invitation) -> str:
    return ", ".join(map(str, invitation.grant.allow))


# -- renew, revoke ---------------------------------------------------------------------------------


def renew(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd renew``: new grants, told to the mesh."""
    from meshd import values
    from meshd.authority import office
    from meshd.commands import given_terms, world

    changes = given_terms(options)
    with office.held(paths, world(), _file(options.authority)) as holder:
        grants = holder.renew(options.nodes, changes)
    done = [
        f"{each.name} {each.node.hex()[:8]} may announce inside {', '.join(map(str, each.allow))},"
        f" {'until ' + values.moment(each.until) if each.until else 'without an end'}"
        for each in grants
    ]
    return _hand_out(paths, [each.raw for each in grants], done)


def revoke(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd revoke``: end a membership, told to the mesh."""
    from meshd.authority import office
    from meshd.commands import world

    with office.held(paths, world(), _file(options.authority)) as holder:
        found, word = holder.revoke(options.node)
    who = f"{found.name} {found.node.hex()}".strip()
    done = [f"{who} is revoked, for as long as this authority lasts"]
    if found.name:
        done.append(f"the name {found.name} is free again")
    return _hand_out(paths, [word.raw], done)


# -- grants ----------------------------------------------------------------------------------


def grants(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd grants``: who may announce what, from the ledger or from the mesh."""
    file = _file(options.authority)
    directory = file.parent if file else paths.state
    if file is None and not os.path.lexists(directory / "grants"):
        rows = client.call(paths, "grants")
    else:
        from meshd.authority import office, roll
        from meshd.commands import world

        book = office.open_book(paths, world(), directory)
        rows = roll.as_json(book.standings, book.unix_now)
    print(text.to_json(rows) if options.json else text.grants(rows))
    return DONE


# -- succeed, deliver -------------------------------------------------------------------------


def succeed(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd succeed``: another authority, after showing whom it takes over."""
    from meshd.authority import succession
    from meshd.commands import world

    following, outside = Path(options.next).absolute(), world()
    plan = succession.plan(
        paths,
        outside,
        following,
        file=_file(options.authority),
        drop=options.drop,
        keep=options.keep,
    )
    print(_table(plan), file=sys.stderr, flush=True)
    if plan.undecided:
        names = " and ".join(f"{each.name} {each.node.hex()[:8]}" for each in plan.undecided)
        raise UsageError(
            f"{names}: in the mesh, and not in {plan.ledger}; somebody else may have granted it:"
            " add --drop NODE or --keep NODE for each"
        )
    _confirm(options, plan)
    made = succession.carry_out(plan, outside, following)
    done = [f"generation {plan.generation} is the authority of {len(plan.taken)} members"]
    try:
        return _hand_out(paths, made.objects, done, plan.bundle)
    finally:
        _say(*_afterwards(plan, made, following))


def _table(plan: Plan) -> str:
    from meshd import values

    heads = ("NAME", "ID", "TAKEN OVER", "ALLOW", "UNTIL", "REMARK")
    fates = {"taken": "yes", "dropped": "no: --drop", "undecided": "?", "out": "no"}
    rows = [
        (
            heir.name,
            heir.node.hex()[:8],
            fates[heir.fate],
            heir.terms.allow,
            values.moment(heir.terms.until) if heir.terms.until else "",
            heir.note,
        )
        for heir in plan.heirs
    ]
    ledger = f", compared with {plan.ledger}" if plan.ledger else "; there is no ledger to compare"
    return f"members by {plan.source}{ledger}:\n{text.table(heads, rows)}"


def _confirm(options: argparse.Namespace, plan: Plan) -> None:
    if options.yes:
        return
    what = f"make generation {plan.generation} the authority of these {len(plan.taken)} members"
    if not sys.stdin.isatty():
        raise UsageError(f"this would {what}; add --yes to do it")
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was made")


def _afterwards(plan: Plan, made: Made, following: Path) -> list[str]:
    used = dict(made.aside).get(following, following)
    following = plan.directory / "authority-next.key"
    return [
        *(f"{old} is now {new}" for old, new in made.aside),
        f"move {following} to another place, offline: it alone can end the time of"
        f" {plan.directory / 'authority.key'}",
        f"destroy {used} and its copies when all members have taken this up: those who were"
        " away, and newcomers, would follow whoever has it",
        f"for who was away, at any time: meshd deliver {plan.bundle}",
    ]


def deliver(options: argparse.Namespace, paths: Paths) -> int:
    """``meshd deliver``: a bundle to the running daemon."""
    from meshd.authority import bundle

    where = "standard input" if options.file == "-" else options.file
    try:
        if options.file == "-":
            content = sys.stdin.buffer.read(bundle.MAX_TEXT)
        else:
            with open(options.file, "rb") as file:
                content = file.read(bundle.MAX_TEXT)
    except OSError as error:
        raise UsageError(
            f"cannot read {options.file}: {error.strerror}; name the file that a command of meshd"
            " wrote"
        ) from None
    raws = bundle.load(content.decode("ascii", "replace"), where)
    _report(paths, delivery.deliver(paths, raws), [])
    return DONE


def _hand_out(
    paths: Paths, raws: Sequence[bytes], done: list[str], written: Path | None = None
) -> int:
    """Deliver ``raws``, or print them to be carried; ``done``: what they say, for people."""
    from meshd.authority import bundle

    try:
        outcomes = delivery.deliver(paths, raws)
    except (Refused, UsageError) as error:
        _say(*done)
        print(bundle.dump(raws), end="", flush=True)
        where = f"what is above, or {written}," if written else "what is above"
        _say(f"nobody was told: {error}", f"hand {where} to a running daemon: meshd deliver FILE")
        if isinstance(error, NoDaemon):
            return DONE  # So it is where the authority lives offline.
        raise Refused("the daemon did not take it") from None
    _report(paths, outcomes, done)
    return DONE


def _report(paths: Paths, outcomes: Counter[str], done: list[str]) -> None:
    _check(outcomes)
    for line in done:
        print(line)
    print("told the mesh:", ", ".join(f"{number} {word}" for word, number in outcomes.items()))
    others, late = delivery.behind(paths)
    if not late:
        print(f"all {others} others have it" if others else "nobody else is in the mesh yet")
        return
    names = ", ".join(f"{peer['name']} ({peer['state']})" for peer in late[:_NAMED])
    more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
    print(text.escape(f"not seen to have it yet: {names}{more}; they are told when they answer"))


_WRONG: Final = {
    "unknown-authority": "not signed by an authority that it knows (was its succession delivered?)",
    "lapsed": "of an authority that was succeeded",
    "full": "for which the mesh has no room",
}


def _check(outcomes: Counter[str]) -> None:
    """``Refused`` if the daemon did not take all of it."""
    wrong = {word: number for word, number in outcomes.items() if word not in delivery.FINE}
    if wrong:
        words = ", ".join(f"{number} {_WRONG.get(word, word)}" for word, number in wrong.items())
        raise Refused(f"not taken by the daemon: {words}, of {outcomes.total()}")


def _file(option: str | None) -> Path | None:
    return Path(option).absolute() if option is not None else None


def _say(*lines: str) -> None:
    for line in lines:
        print(f"meshd: {text.escape(line)}", file=sys.stderr, flush=True)
