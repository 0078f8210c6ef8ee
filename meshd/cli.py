"""The command line: what can be asked, and how an answer becomes an exit code.

0 is done, 1 is no, 2 is usage or config; an error is one line on standard error and never a
traceback.  The commands themselves are in ``meshd.usage``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from meshd import __version__, text, usage
from meshd.errors import Refused, UsageError
from meshd.paths import Paths

NO, USAGE = 1, 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
"""128 + SIGINT and 128 + SIGPIPE, as a shell reports a program that died of them."""


class _Parser(argparse.ArgumentParser):
    """Errors are one line, like all others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{text.escape(message)}; see: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shall see its number, not an error.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UsageError as error:
        return _complain(error, USAGE)
    except Refused as error:
        return _complain(error, NO)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return PIPE_CLOSED
    except OSError as error:
        _abandon_output()
        where = error.filename or "standard output"
        return _complain(f"{where}: {error.strerror or error}", NO)
    return code


def _complain(error: object, code: int) -> int:
    print(f"meshd: {text.escape(error)}", file=sys.stderr)
    return code


def _abandon_output() -> None:
    """Standard output takes no more: the interpreter's own flush at exit must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: Sequence[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    command: usage.Command | None = options.command
    if command is None:
        parser.print_help(sys.stderr)
        return USAGE
    return command.run(options, _paths(options.dir or os.environ.get("MESHD_DIR")))


def _paths(directory: str | None) -> Paths:
    return Paths.under(Path(directory)) if directory else Paths.system()


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="meshd",
        description="Joins the private subnets of routers: they tell each other what lies behind"
        " them,\nand each keeps its own routes and NAT exclusions.",
        epilog="start here:\n"
        "  meshd init --name a --announce 10.1.0.0/24     on the first router, then: meshd run\n"
        "  meshd invite b                                 there too: prints a token\n"
        "  meshd join TOKEN --announce 10.2.0.0/24        on the second router, then: meshd run\n"
        "\nexit codes: 0 done, 1 no, 2 usage or config",
    )
    parser.add_argument("--version", action="version", version=f"meshd {__version__}")
    _add_directory(parser, None)
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    parser.set_defaults(command=None)
    for command in usage.COMMANDS:
        sub = subparsers.add_parser(
            command.name,
            help=command.purpose,
            description=command.purpose[0].upper() + command.purpose[1:] + ".",
            epilog=f"{command.help}\n\nexit codes: {command.codes}",
        )
        command.options(sub)
        # After the command too; not given there, it leaves what was given before.
        _add_directory(sub, argparse.SUPPRESS)
        sub.set_defaults(command=command)
    return parser


def _add_directory(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--dir",
        metavar="DIR",
        default=default,
        help="keep everything under DIR (also MESHD_DIR); without it /etc/meshd, /run/meshd"
        " and /var/lib/meshd",
    )


if __name__ == "__main__":
    sys.exit(main())
