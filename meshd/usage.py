"""Every command: its options, what it is for, and the words of its ``--help``.

Data and argparse alone.  What a command does is in the modules that are named here; those that
load anything heavy do so when they are called.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final, NamedTuple

from meshd import commands, text
from meshd.authority import commands as authority_commands
from meshd.paths import Paths


class Command(NamedTuple):
    """One command: what runs it, what it takes, and how it is told of."""

    name: str
    run: Callable[[argparse.Namespace, Paths], int]
    options: Callable[[argparse.ArgumentParser], None]
    purpose: str
    """One sentence."""
    help: str
    """What a newcomer must know, with an example."""
    codes: str = "0 done, 1 no, 2 usage or config"


# -- options ------------------------------------------------------------------------------------


def _no_options(parser: argparse.ArgumentParser) -> None:
    del parser


def _list_option(parser: argparse.ArgumentParser, name: str, metavar: str, words: str) -> None:
    parser.add_argument(name, metavar=metavar, action="append", default=[], help=words)


def _announce_option(parser: argparse.ArgumentParser) -> None:
    _list_option(
        parser,
        "--announce",
        "P",
        "a subnet behind this router, or interface:NAME for those it has; may be repeated",
    )


def _advertise_option(parser: argparse.ArgumentParser) -> None:
    _list_option(
        parser,
        "--advertise",
        "ADDR[:PORT]",
        "this router's address for the mesh, one IPv4 and one IPv6; without it, found out",
    )


def _grant_options(parser: argparse.ArgumentParser) -> None:
    _list_option(
        parser, "--allow", "P", "it may announce subnets inside P; without it, inside the pool"
    )
    _list_option(parser, "--at", "UNDERLAY", "its own address must lie in this prefix")
    parser.add_argument("--limit", metavar="N", help="it may announce at most N subnets, or none")
    parser.add_argument(
        "--until",
        metavar="DATE",
        help="its membership ends: 2027-01-31, or 2027-01-31T12:00Z, or never",
    )


def _init_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="this router's name in the mesh")
    _announce_option(parser)
    _list_option(
        parser,
        "--pool",
        "P",
        "what members may announce when their grant does not say otherwise; may be repeated;"
        " without it, RFC 1918 and fc00::/7",
    )
    _advertise_option(parser)
    _grant_options(parser)


def _invite_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the new member's name")
    _token_options(parser)


def _token_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--valid",
        metavar="TIME",
        default="24h",
        help="how long the token can be used to join: 30m, 24h, 7d (default: 24h)",
    )
    _list_option(
        parser,
        "--seed",
        "HOST[:PORT]",
        "a member that the new one is to ask; without it, this host, if it is one",
    )
    _grant_options(parser)
    _authority_option(parser)


def _grant_command_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="what `meshd key` printed on the new router")
    parser.add_argument("--name", required=True, help="the new member's name")
    parser.add_argument(
        "--tell",
        action="store_true",
        help="tell the mesh too, for a router that was put out and still runs: it needs no token",
    )
    _token_options(parser)


def _authority_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--authority",
        metavar="FILE",
        help="the authority's key, with its ledger beside it; without it, in this node's state",
    )


def _renew_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nodes", metavar="NODE", nargs="+", help="a member's name or key")
    _grant_options(parser)
    _authority_option(parser)


def _revoke_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", help="a member's name or key")
    _authority_option(parser)


def _grants_options(parser: argparse.ArgumentParser) -> None:
    _json_option(parser)
    _authority_option(parser)


def _succeed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--next", metavar="FILE", required=True, help="the authority-next.key that was set aside"
    )
    _list_option(parser, "--drop", "NODE", "do not take over this member, by name or key")
    _list_option(parser, "--keep", "NODE", "take over this member, though no ledger names it")
    parser.add_argument(
        "--authority",
        metavar="FILE",
        help="where the new authority's key goes, with its ledger; without it, this node's state",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _deliver_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a bundle, or - to read it")


def _join_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "token", metavar="TOKEN", help="what invite or grant printed, or - to read it"
    )
    _announce_option(parser)
    _advertise_option(parser)


def _run_options(parser: argparse.ArgumentParser) -> None:
    _list_option(parser, "--seed", "HOST[:PORT]", "where a member may answer; may be repeated")
    _announce_option(parser)
    _advertise_option(parser)
    parser.add_argument(
        "--observe",
        action="store_true",
        help="join and watch: change nothing in the kernel, announce no subnet",
    )
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="for people, or programs"
    )


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: the daemon's own words")


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: a list of findings")


def _explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        metavar="NODE|PREFIX",
        help="a node's name, its id or the start of it; or a subnet, or an address",
    )
    _json_option(parser)


def _prefixes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefixes",
        metavar="P",
        nargs="+",
        help="a subnet, such as 10.7.0.0/24, or interface:NAME for those that it has",
    )


def _wait_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", metavar="N", help="N members alive besides this one, at least")
    _list_option(parser, "--prefix", "P", "P is installed in the kernel, or announced here")
    parser.add_argument(
        "--converged", action="store_true", help="all live members have the same table"
    )
    parser.add_argument("--timeout", metavar="S", required=True, help="seconds to wait at most")


def _purge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", action="store_true", help="also remove this node's directory and config"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _import_zap_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--zone", metavar="NAME", help="which router zone, if there are several")
    parser.add_argument(
        "--root", metavar="DIR", default="/", help="the global zone's root (default: /)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


COMMANDS: Final = (
    Command(
        "init",
        commands.init,
        _init_options,
        "make a new mesh, with this router as its first member",
        "Makes the mesh's authority (who may be a member is what it signs), this router's own\n"
        "key and config, and prints what to do next.\n\n"
        "example:\n  meshd init --name a --announce 10.1.0.0/24",
    ),
    Command(
        "invite",
        authority_commands.invite,
        _invite_options,
        "print a token with which another router can join",
        "Runs where the authority's key is. The token is the only thing on standard output, and\n"
        "is a secret: it holds the new member's key. Pass it through ssh, not through a chat.\n\n"
        "example:\n  meshd invite b --allow 10.2.0.0/16 |\n"
        "    ssh b meshd join - --announce 10.2.0.0/24",
    ),
    Command(
        "key",
        authority_commands.key,
        _no_options,
        "print this router's public key, made if there is none",
        "The careful way to join: the secret key never leaves this host. `meshd grant` makes a\n"
        "token of what is printed.\n\n"
        "example:\n  meshd key",
    ),
    Command(
        "grant",
        authority_commands.grant,
        _grant_command_options,
        "print a token for a router that has made its own key",
        "Runs where the authority's key is. The token is no secret: only the host with that key\n"
        "can use it. For a key that has a grant it is given anew.\n\n"
        "example:\n  meshd grant $(ssh b meshd key) --name b --allow 10.2.0.0/16 |\n"
        "    ssh b meshd join - --announce 10.2.0.0/24",
    ),
    Command(
        "join",
        commands.join,
        _join_options,
        "make this router the member that a token was made for",
        "Writes this router's key and config; `meshd run` then starts it.\n\n"
        "example:\n  meshd join - --announce 10.2.0.0/24 < token",
    ),
    Command(
        "grants",
        authority_commands.grants,
        _grants_options,
        "list who may announce what, at which addresses, how much, until when",
        "member: it has joined. invited: its token can be used. unused: it can be no more. ended:\n"
        "its date is past. revoked. lapsed: the present authority has not taken it over. Where\n"
        "the ledger is, by that and by the mesh; elsewhere by the mesh alone.\n\n"
        "example:\n  meshd grants",
        "0 shown, 1 no daemon, 2 usage or config",
    ),
    Command(
        "renew",
        authority_commands.renew,
        _renew_options,
        "give members new grants; what is not said stays as it is",
        "Runs where the authority's key is. The members take it up while they run.\n\n"
        "example:\n  meshd renew b c --until 2028-01-31",
    ),
    Command(
        "revoke",
        authority_commands.revoke,
        _revoke_options,
        "end a membership for good",
        "Runs where the authority's key is. All members drop its routes at once, and its key is\n"
        "never a member again while this authority lasts. Its name is free.\n\n"
        "example:\n  meshd revoke b",
    ),
    Command(
        "succeed",
        authority_commands.succeed,
        _succeed_options,
        "make a new authority with the key that was set aside, and take the members over",
        "For when the authority's key is lost or stolen. Runs on a member's host, or offline with\n"
        "a copy of its config and snapshot. Shows first whom it takes over, and asks. What the\n"
        "old authority gave to others, or took, is void. docs/authority.md has every step.\n\n"
        "example:\n  meshd succeed --next /mnt/authority-next.key --drop laptop",
    ),
    Command(
        "deliver",
        authority_commands.deliver,
        _deliver_options,
        "tell the mesh what its authority has signed on another machine",
        "Takes what revoke, renew or succeed printed where no daemon runs. Twice is harmless.\n\n"
        "example:\n  meshd deliver succession-1",
    ),
    Command(
        "run",
        commands.run,
        _run_options,
        "run the daemon, in the foreground, until SIGINT or SIGTERM",
        "Finds the other members, and keeps the routes to their subnets and the NAT exclusions.\n"
        "Stopping it leaves them in place (`meshd leave` takes them away); SIGHUP reads the\n"
        "config again. Options add to the config's lists. Needs CAP_NET_ADMIN.\n\n"
        "With --observe it joins the mesh and only watches: routes, nftables and connections\n"
        "stay as they are, also what an earlier daemon left, and no subnet is announced, so that\n"
        "nobody sends traffic here that would not be routed back. `meshd plan` shows what it\n"
        "would do. It needs no capability; without CAP_NET_ADMIN nftables cannot be read, and the\n"
        "plan leaves it out.\n\n"
        "example:\n  meshd run --seed 192.0.2.1 --announce 10.1.0.0/24",
        "0 stopped or left, 1 failed, 2 usage, config, privilege or port in use",
    ),
    Command(
        "status",
        commands.show("status", text.status),
        _json_option,
        "show this node, its mesh and its kernel in a few lines",
        "example:\n  meshd status --json | jq .converged",
        "0 shown, 1 no daemon, 2 usage",
    ),
    Command(
        "peers",
        commands.show("peers", text.peers),
        _json_option,
        "list the other members, with state and round-trip time",
        "alive: it answers. suspect: it may be gone. failed: its routes are removed. left: it\n"
        "said goodbye.\n\nexample:\n  meshd peers",
        "0 shown, 1 no daemon, 2 usage",
    ),
    Command(
        "routes",
        commands.show("routes", text.routes),
        _json_option,
        "list what the members announce, and why it is or is not in the kernel",
        "installed: in use. standby: another origin is used. unreachable: its node is gone, and\n"
        "traffic is stopped rather than leaked. refused, shadowed: see the reason.\n\n"
        "example:\n  meshd routes",
        "0 shown, 1 no daemon, 2 usage",
    ),
    Command(
        "explain",
        commands.explain,
        _explain_options,
        "say why a prefix is or is not in the kernel, or all that is known of a node",
        "Of a prefix: who announces it or what overlaps it, by whose grant, who wins and why, and\n"
        "what the kernel has. Of a node: its state and since when, who accused it, its grant and\n"
        "what became of its prefixes. An address stands for the prefixes it lies in.\n\n"
        "example:\n  meshd explain 10.2.0.0/24\n  meshd explain b",
        "0 shown, 1 nothing or too much is meant by it, or no daemon, 2 usage",
    ),
    Command(
        "watch",
        commands.watch,
        _json_option,
        "print events as they happen, until interrupted",
        "The same lines as the daemon's log; --json gives one object a line.\n\n"
        "example:\n  meshd watch",
        "1 the daemon ended, or there is none, 2 usage, 130 interrupted",
    ),
    Command(
        "wait",
        commands.wait,
        _wait_options,
        "wait until all that is asked for holds, for scripts",
        "Also waits for the daemon to appear.\n\n"
        "example:\n  meshd wait --peers 2 --prefix 10.2.0.0/24 --converged --timeout 30",
        "0 it holds, 1 not in time, 2 usage",
    ),
    Command(
        "announce",
        commands.change("announce"),
        _prefixes,
        "announce subnets behind this router, from now on",
        "Kept beside the config, so it survives a restart. Returns when the change is on its way.\n"
        "Of an interface only what the grant allows is announced; what is left out is told.\n"
        "\nexample:\n  meshd announce 10.7.0.0/24 fd00:7::/64 interface:incusbr0",
    ),
    Command(
        "withdraw",
        commands.change("withdraw"),
        _prefixes,
        "announce subnets no longer, from now on",
        "Kept beside the config, so it survives a restart. Returns when the change is on its way.\n"
        "\nexample:\n  meshd withdraw 10.7.0.0/24",
    ),
    Command(
        "leave",
        commands.leave,
        _no_options,
        "leave the mesh: tell all members, take our state out of the kernel, end the daemon",
        "`meshd run` comes back as the same member.\n\nexample:\n  meshd leave",
    ),
    Command(
        "reload",
        commands.reload,
        _no_options,
        "make the daemon read its config again",
        "A file with an error changes nothing, and the error is told. SIGHUP does the same.\n\n"
        "example:\n  meshd reload",
    ),
    Command(
        "plan",
        commands.plan,
        _json_option,
        "show what the daemon would change in the kernel now and why, and change nothing",
        "Each step as the command that a person would type, and under it the reason: who\n"
        "announces the prefix, what was found in the kernel, or which rule took it away. A daemon\n"
        "that runs with --observe leaves all of it undone.\n\n"
        "example:\n  meshd plan",
        "0 shown, 1 no daemon, 2 usage",
    ),
    Command(
        "doctor",
        commands.doctor,
        _doctor_options,
        "look for what on this host breaks routing, and say what mends it",
        "Forwarding, reverse path filters, what Docker, libvirt, firewalld and others drop or\n"
        "translate, the UDP port, addresses, MTU, clock, programs that take routes away. Changes\n"
        "nothing: the commands it prints are yours to run. Works without a daemon, and sees most\n"
        "as root. docs/operations.md has more.\n\n"
        "example:\n  meshd doctor\n  meshd doctor --json | jq '.[] | select(.level == \"error\")'",
        "0 nothing would break the mesh, 1 something would, 2 usage",
    ),
    Command(
        "import-zap",
        commands.import_zap,
        _import_zap_options,
        "take over subnets, address and NAT of a router zone that Tribblix's zap has made",
        "Runs in the global zone, on the config of a node that exists; --dir names its place in\n"
        "the zone. Shows what it found and what would change, and asks. See docs/illumos.md.\n\n"
        "example:\n  meshd import-zap --zone r1 --dir /export/zones/r1/root/var/meshd",
        "0 written or nothing to do, 1 no, 2 usage or config",
    ),
    Command(
        "purge",
        commands.purge,
        _purge_options,
        "remove everything of ours from the kernel, when no daemon runs",
        "For after a daemon that is gone for good; `meshd leave` does it in good order. --state\n"
        "also removes this node's directory and config, but never what is the authority's.\n\n"
        "example:\n  meshd purge",
    ),
)
