"""What can go wrong for the person at the keyboard.

Every message is one line that names the thing (file, key, value) and the remedy; the
command prints it after ``meshd: `` and no traceback ever.  It may quote what the
operator wrote, never what a peer sent: ``meshd.text.escape`` is for that.  Imports nothing,
so that the commands which only talk to the control socket may use it.
"""

from __future__ import annotations


class UsageError(Exception):
    """What the operator must mend. The command exits 2."""


class StateError(UsageError):
    """A file of ours cannot be written or read now: disk full, read-only, permission.

    Whatever was asked for has not happened, and the file is as it was before.
    """


class Refused(Exception):
    """The answer is no, though the question was right. The command exits 1."""


INVALID_PARAMS, REFUSED = -32602, 1
"""The codes under which ``UsageError`` and ``Refused`` cross the control socket: the first
is JSON-RPC 2.0's own (section 5.1), the second from the range it leaves to applications."""
