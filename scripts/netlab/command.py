"""`scripts/lab`: a lab that stays up between commands, to try things in by hand."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from netlab.lab import Lab, labs
from netlab.masquerade import CHOICES, KINDS
from netlab.mesh import MESHD
from netlab.namespace import CommandError

STATE = Path("/run/meshd-lab")
"""A directory for each lab that is up: how it was asked for, and each router's MESHD_DIR."""

DESCRIPTION = """\
Router zones in network namespaces on one switch, each with a private zone behind it, a foreign
masquerade rule on its uplink, IPv4 and IPv6.

  scripts/lab up                        three zones
  scripts/lab up --zones 16 --loss 10   sixteen, and the switch loses a tenth of all frames
  scripts/lab shell 1                   a shell on router 1; there, meshd has a directory of its own
  scripts/lab exec p1 ping 10.2.0.2     a command in the private zone behind router 1
  scripts/lab down                      removes all of it

Places: 1 or r1 is router 1, p1 the private zone behind it; and there are switch and internet.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 it could not be done, 2 the command line makes no sense."""
    options = _parser().parse_args(argv)
    # As after Ctrl-C: whatever `up` has made is removed on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        return int(options.command(options) or 0)
    except (CommandError, ValueError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="up|status|shell|exec|down")

    up = commands.add_parser("up", help="make a lab")
    up.add_argument("--zones", type=int, default=3, metavar="N", help="how many (default: 3)")
    up.add_argument(
        "--nat",
        type=lambda text: text.split(","),
        default=list(KINDS),
        metavar="KIND[,KIND]...",
        help=f"foreign masquerade rules, given to the zones in turn: {', '.join(CHOICES)} "
        f"(default: {','.join(KINDS)})",
    )
    up.add_argument(
        "--loss", type=float, default=0, metavar="PERCENT", help="of the frames on the switch"
    )
    up.add_argument(
        "--second-uplink", action="store_true", help="default routes on a network of their own"
    )
    up.add_argument(
        "--routed",
        action="store_true",
        help="half of the zones on another switch, a router between",
    )
    up.set_defaults(command=_up)

    status = commands.add_parser("status", help="show the labs on this machine, or one")
    status.set_defaults(command=_status)

    shell = commands.add_parser("shell", help="a shell in a place")
    shell.add_argument("place", nargs="?", default="1", help="default: router 1")
    shell.set_defaults(command=_shell)

    execute = commands.add_parser("exec", help="run a command in a place")
    execute.add_argument("place")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="command")
    execute.set_defaults(command=_exec)

    down = commands.add_parser("down", help="remove a lab and end what runs in it")
    down.set_defaults(command=_down)

    for command in (up, status, shell, execute, down):
        command.add_argument(
            "--name", default="lab", help="tells labs apart, for several at once (default: lab)"
        )
    return parser


def _up(options: argparse.Namespace) -> None:
    wanted = {
        "zones": options.zones,
        "nat": options.nat,
        "loss": options.loss,
        "second_uplink": options.second_uplink,
        "routed": options.routed,
    }
    lab = Lab(name=options.name, **wanted)
    lab.up()
    try:
        (STATE / lab.name).mkdir(parents=True)
        (STATE / lab.name / "lab.json").write_text(json.dumps(wanted), encoding="ascii")
        print(_table(lab))
    except BaseException:
        _remove(lab.name)
        raise


def _status(options: argparse.Namespace) -> None:
    names = sorted(labs())
    if options.name in names:
        print(_table(_load(options.name)))
    for name in names:
        if name != options.name:
            print(f"another lab: {name}")
    if not names:
        print("no lab is up")


def _shell(options: argparse.Namespace) -> None:
    bash = shutil.which("bash")
    options.argv = [bash, "--norc"] if bash else ["sh"]
    _exec(options)


def _exec(options: argparse.Namespace) -> None:
    lab = _load(options.name)
    place = lab.place(options.place)
    short = place.name.rpartition("-")[2]
    if not options.argv:
        raise ValueError("exec: which command?")
    environment = {
        **os.environ,
        "PATH": f"{MESHD.parent}:{os.environ['PATH']}",
        "PS1": f"[{lab.name} {short}] \\w # ",
    }
    if short.startswith("r"):
        environment["MESHD_DIR"] = str(STATE / lab.name / short)
    with place.entered():
        os.execvpe(options.argv[0], options.argv, environment)


def _down(options: argparse.Namespace) -> None:
    if options.name not in labs() and not (STATE / options.name).exists():
        raise ValueError(f"no lab {options.name} is up")
    _remove(options.name)


def _remove(name: str) -> None:
    Lab(1, name=name).down()
    shutil.rmtree(STATE / name, ignore_errors=True)
    if STATE.exists() and not any(STATE.iterdir()):
        STATE.rmdir()


def _load(name: str) -> Lab:
    try:
        wanted = json.loads((STATE / name / "lab.json").read_text(encoding="ascii"))
    except FileNotFoundError:
        raise ValueError(f"no lab {name} is up; `scripts/lab up` makes one") from None
    return Lab(name=name, **wanted)


def _table(lab: Lab) -> str:
    rows = [("ROUTER", "MASQUERADE", "UPLINK", "PRIVATE SUBNETS", "IN THE PRIVATE ZONE")]
    for zone in lab.zones:
        rows.append(
            (
                f"r{zone.number}",
                zone.nat,
                f"{zone.uplink4.ip} {zone.uplink6.ip}",
                f"{zone.prefix4} {zone.prefix6}",
                f"p{zone.number}: {zone.private4} {zone.private6}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    loss = f", the switch loses {lab.loss:g} % of its frames" if lab.loss else ""
    return "\n".join([f"lab {lab.name}: {len(lab.zones)} zones{loss}", *lines])


if __name__ == "__main__":
    sys.exit(main())
