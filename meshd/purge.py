"""``meshd purge``: take away what a daemon that is gone has left, in the kernel and on disk.

It holds the state directory's lock meanwhile, so it never works against a running daemon.
The authority's keys are never removed: without them a mesh cannot grow again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from meshd import config as configuration
from meshd.config import Config
from meshd.errors import Refused, StateError, UsageError
from meshd.files import failure
from meshd.kernel import backend
from meshd.paths import Paths
from meshd.startup import kernel_backend
from meshd.state import StateDirectory, is_authoritys


def purge_kernel(paths: Paths) -> list[str]:
    """Remove every kernel object of ours; a line for each thing done.

    ``UsageError`` while a daemon runs or without the privilege; ``Refused`` if some stayed.
    """
    # Without a config (a node half removed) the defaults are what a daemon would have used.
    config = configuration.load(paths.config) if paths.config.exists() else Config()
    with _no_daemon(paths):
        kernel = backend(
            kernel_backend(config),
            metric=config.metric,
            nat=config.nat,
            tunnel_port=config.vxlan_port,
            illumos=config.illumos,
            state=paths.state,
        )
        try:
            kernel.check()
            return kernel.purge()
        except OSError as error:
            raise Refused(f"some of it stayed in the kernel: {error}") from None
        finally:
            kernel.close()


def doomed(paths: Paths) -> list[str]:
    """What ``purge_state`` would remove, for the question before it."""
    return [path for path in (str(paths.state), str(paths.config)) if os.path.lexists(path)]


def purge_state(paths: Paths) -> list[str]:
    """Remove the state directory and the config; a line for each thing done.

    Where a key or the ledger of the authority is, it stays, be it of a generation before, and
    the config with it: the key alone does not say which mesh it is the authority of.
    """
    done = []
    with _no_daemon(paths):
        names = sorted(os.listdir(paths.state)) if paths.state.is_dir() else []
        kept = [name for name in names if is_authoritys(name)]
        try:
            if not kept:
                for path in (paths.state, paths.config):
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.exists():
                        path.unlink()
                    else:
                        continue
                    done.append(f"removed {path}")
                if paths.root is not None:
                    with contextlib.suppress(OSError):
                        paths.root.rmdir()  # Only when nothing of anybody else is in it.
            else:
                for name in names:
                    if name not in kept:
                        (paths.state / name).unlink()
                        done.append(f"removed {paths.state / name}")
                done += [f"kept {paths.state / name}" for name in kept]
                done.append(f"kept {paths.config}")
        except OSError as error:
            raise failure(paths.state, "remove", error) from None
    return done


@contextlib.contextmanager
def _no_daemon(paths: Paths) -> Iterator[None]:
    if not paths.state.is_dir():
        yield
        return
    try:
        lock = StateDirectory(paths.state).lock(paths.home)
    except StateError:
        raise
    except UsageError as error:
        raise UsageError(f"{error}; use `meshd{paths.option} leave` first") from None
    try:
        yield
    finally:
        lock.release()
