"""What kernel tests share: labs and meshes with names of their own, removed also after a failure.

Everything in this directory is a kernel test. It needs root (or a user namespace, as scripts/test
makes); without, it is skipped and says so. As root nothing is skipped: a program that is missing
is a failure.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netlab import Lab, Mesh

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before `-m` is judged
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes network namespaces: needs root"))


_numbers = itertools.count(1)


@pytest.fixture
def new_lab() -> Iterator[Callable[..., Lab]]:
    """A function that takes what `Lab` takes, but the name, and brings the lab up."""
    with contextlib.ExitStack() as stack:

        def make(zones: int = 3, **options: object) -> Lab:
            # Others may run tests on this machine at the same time.
            name = f"t{os.getpid()}-{next(_numbers)}"
            return stack.enter_context(Lab(zones, name=name, **options))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def new_mesh(tmp_path: Path) -> Iterator[Callable[[Lab], Mesh]]:
    """A function that makes a mesh without members in a lab; its daemons end with the test.

    Ask for it after `new_lab`, so that the daemons end before their namespaces do.
    """
    with contextlib.ExitStack() as stack:

        def make(lab: Lab) -> Mesh:
            directory = tmp_path / lab.name
            directory.mkdir()
            return stack.enter_context(Mesh(lab, directory))

        yield make
