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

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]


@pytest.hookimpl(tryfirst=True)  # before `-m` is judged
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes network namespaces: needs root"))


_numbers = itertools.count(1)


def _labs() -> Iterator[NewLab]:
    """A function that takes what `Lab` takes, but the name, and brings the lab up."""
    with contextlib.ExitStack() as stack:

        def make(zones: int = 3, **options: object) -> Lab:
            # Others may run tests on this machine at the same time.
            name = f"t{os.getpid()}-{next(_numbers)}"
            return stack.enter_context(Lab(zones, name=name, **options))  # type: ignore[arg-type]

        yield make


def _meshes(directory: Path) -> Iterator[NewMesh]:
    """A function that makes a mesh without members in a lab; its daemons end with the fixture.

    Ask for it after the lab, so that the daemons end before their namespaces do.
    """
    with contextlib.ExitStack() as stack:

        def make(lab: Lab) -> Mesh:
            home = directory / lab.name
            home.mkdir()
            return stack.enter_context(Mesh(lab, home))

        yield make


@pytest.fixture
def new_lab() -> Iterator[NewLab]:
    yield from _labs()


@pytest.fixture
def new_mesh(tmp_path: Path) -> Iterator[NewMesh]:
    yield from _meshes(tmp_path)


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[NewLab]:
    """`new_lab` for a mesh that the tests of a module only look at."""
    yield from _labs()


@pytest.fixture(scope="module")
def shared_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewMesh]:
    yield from _meshes(tmp_path_factory.mktemp("mesh"))


@pytest.fixture
def three(new_lab: NewLab, new_mesh: NewMesh) -> Mesh:
    """A mesh of three that has converged, for a test that changes it."""
    mesh = new_mesh(new_lab(3))
    mesh.grow()
    return mesh
