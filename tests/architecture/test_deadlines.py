"""Deadlines of tests are scaled by one setting, and no test asserts that something was quick (docs/testing.md, W28)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.repository import ROOT, modules

#: Seconds below which a wait is no deadline: a test rests so long, or sees that nothing has come meanwhile.
REST = 5
#: Calls that end when what they wait for comes, and fail or give up when so many seconds have passed.
WAITS = ("wait", "join", "result", "communicate", "notifies")
#: A server's own behaviour: how long it stays silent, or holds a connection.
SERVERS = (
    "tests/support/servers/mail_server.py",
    "tests/support/servers/ses_server.py",
    "tests/support/servers/erasure_server.py",
)


def _seconds(call: ast.Call) -> float:
    given = [*call.args[:1], *(each.value for each in call.keywords if each.arg == "timeout")]
    return max((float(each.value) for each in given if _is_number(each)), default=0)  # type: ignore[attr-defined]


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _reads_stopwatch(node: ast.AST) -> bool:
    return any("monotonic()" in ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.BinOp))


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in WAITS and _seconds(node) >= REST:
                yield f"line {node.lineno}: {ast.unparse(node)}: write deadline({_seconds(node):g})"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess"))) if _seconds(node) >= REST:
                yield f"line {node.lineno}: a process is given {_seconds(node):g} s: write deadline({_seconds(node):g})"
            case ast.Assert(test=ast.Compare(left=left, ops=[ast.Lt() | ast.LtE()])) if _reads_stopwatch(left):
                yield f"line {node.lineno}: {ast.unparse(node)}: no test asserts that something was quick"


@pytest.mark.parametrize(
    "path", [path for each in modules("tests") if (path := f"{each.relative_to(ROOT)}") not in SERVERS]
)
def test_deadlines_are_scaled_and_nothing_has_to_be_quick(path: str) -> None:
    assert list(faults((ROOT / path).read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "thread.join(30)",
        "assert ready.wait(timeout=30)",
        "subprocess.run(command, timeout=60)",
        "assert time.monotonic() - begun < 5",
    ],
)
def test_a_fault_is_found(source: str) -> None:
    assert len(list(faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "thread.join(deadline(30))",
        "assert not placed.wait(0.3)",
        "', '.join(words)",
        "subprocess.run(command, timeout=deadline(60))",
        "assert taken <= 20 + 20 * (monotonic() - begun) + 1",
    ],
)
def test_no_false_alarm(source: str) -> None:
    assert list(faults(source)) == []
