"""Laws of the failpoints: harmless until armed, and each is reached by the code that names it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloud
from cloud.gdpr import extents
from cloud.kernel import failpoints

SOURCES = Path(cloud.__file__).parent


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


def test_an_armed_place_acts_each_time_and_a_disarmed_one_never() -> None:
    reached: list[str] = []
    failpoints.arm("store.sealed", lambda: reached.append("store.sealed"))
    failpoints.reach("store.sealed")
    failpoints.reach("store.committed")
    failpoints.reach("store.sealed")
    failpoints.disarm_all()
    failpoints.reach("store.sealed")
    assert reached == ["store.sealed", "store.sealed"]


def test_a_name_that_no_code_knows_cannot_be_armed() -> None:
    with pytest.raises(KeyError):
        failpoints.arm("store.seeled", lambda: None)


def names_of(argument: ast.expr) -> Iterator[str]:
    """What a call reaches: the name, or one of each extent where a name begins with the extent's step."""
    match argument:
        case ast.Constant(value=str(name)):
            yield name
        case ast.JoinedStr(values=[ast.FormattedValue(value=step), ast.Constant(value=str(rest))]):
            assert ast.unparse(step) == "extent.step"
            yield from (f"{kind.step}{rest}" for kind in (extents._Person, extents._Tenant))


def test_the_code_reaches_every_name_and_no_other() -> None:
    reached = {
        name
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reach"
        for name in names_of(node.args[0])
    }
    assert reached == set(failpoints.NAMES)
