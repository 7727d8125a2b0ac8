"""Fixtures over the driver of self-checking programs: `kept` runs three ways, `refused` proves a refusal by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.sls.driver import Outcome, Way, command_of, run


class Kept(Protocol):
    """Runs a program of tests/programs/ with its case; fails the test unless it ends with `ok`."""

    way: Way

    def __call__(
        self,
        program: str,
        *case: object,
        descriptors: Mapping[int, int] | None = None,
        between: Callable[[], object] | None = None,
        terminal: Sequence[int] = (),
    ) -> Outcome: ...


class _Keeper:
    def __init__(self, way: Way, directory: Path, binaries: Path) -> None:
        self.way = way
        self._directory = directory
        self._binaries = binaries

    def __call__(
        self,
        program: str,
        *case: object,
        descriptors: Mapping[int, int] | None = None,
        between: Callable[[], object] | None = None,
        terminal: Sequence[int] = (),
    ) -> Outcome:
        command = [
            *command_of(program, self._binaries),
            str(self._directory / "go"),
            *map(str, case),
        ]
        outcome = run(
            command,
            self._directory,
            self.way,
            descriptors=descriptors,
            between=between,
            terminal=terminal,
        )
        if outcome.failure:
            pytest.fail(f"{program} {' '.join(map(str, case))}: {outcome.failure}", pytrace=False)
        return outcome


@pytest.fixture(
    params=[
        pytest.param(way, id=way.value, marks=pytest.mark.root)
        for way in (Way.UNTOUCHED, Way.CONTINUED, Way.RESTORED)
    ]
)
def kept(request: pytest.FixtureRequest, tmp_path: Path, binaries: Path) -> Kept:
    """A program left alone; captured twice and continued; captured, killed and restored, twice in a row."""
    return _Keeper(request.param, tmp_path, binaries)


@pytest.fixture(params=[pytest.param(Way.RESTORED, id="restored", marks=pytest.mark.root)])
def restored(request: pytest.FixtureRequest, tmp_path: Path, binaries: Path) -> Kept:
    """Only the last way of `kept`, for what a test arranges around it."""
    return _Keeper(request.param, tmp_path, binaries)


@pytest.fixture(params=[pytest.param(Way.CONFLICT, id="conflict", marks=pytest.mark.root)])
def conflict(request: pytest.FixtureRequest, tmp_path: Path, binaries: Path) -> Kept:
    """Captured, killed; then `between` takes something away, and the restore must say what is missing."""
    return _Keeper(request.param, tmp_path, binaries)


@pytest.fixture(params=[pytest.param(Way.PARTED, id="parted", marks=pytest.mark.root)])
def parted(request: pytest.FixtureRequest, tmp_path: Path, binaries: Path) -> Kept:
    """Captured and ended at once, `between`, restored, twice in a row: the outside is kept from noticing."""
    return _Keeper(request.param, tmp_path, binaries)


class Refused(Protocol):
    """Runs a program whose capture must raise UnsupportedResourceError; returns the words. The program ends well."""

    def __call__(
        self, program: str, *case: object, descriptors: Mapping[int, int] | None = None
    ) -> str: ...


@pytest.fixture(params=[pytest.param(Way.REFUSED, id="refused", marks=pytest.mark.root)])
def refused(request: pytest.FixtureRequest, tmp_path: Path, binaries: Path) -> Refused:
    """A capture that is refused by name, the program unharmed."""
    keeper = _Keeper(request.param, tmp_path, binaries)

    def refuse(program: str, *case: object, descriptors: Mapping[int, int] | None = None) -> str:
        return keeper(program, *case, descriptors=descriptors).refusal

    return refuse


class Either(Protocol):
    """Runs a program that is restored or refused; returns the words of the refusal. It skips what is absent here."""

    def __call__(self, program: str, *case: object) -> str: ...


@pytest.fixture(params=[pytest.param(Way.EITHER, id="either", marks=pytest.mark.root)])
def either(request: pytest.FixtureRequest, tmp_path: Path, binaries: Path) -> Either:
    """Kept or refused by name: never lost without a word, never harmed."""

    def run_either(program: str, *case: object) -> str:
        command = [*command_of(program, binaries), str(tmp_path / "go"), *map(str, case)]
        outcome = run(command, tmp_path, request.param)
        if outcome.failure.endswith("absent\n"):
            pytest.skip(f"{' '.join(map(str, case))} is absent here")
        if outcome.failure:
            pytest.fail(f"{program} {' '.join(map(str, case))}: {outcome.failure}", pytrace=False)
        return outcome.refusal

    return run_either
