"""All failpoints, read from the code: a new one cannot be forgotten."""

from __future__ import annotations

import ast
from pathlib import Path

from models.termination.termination import Step
from tasks.engine.registry import jobs

_REPOSITORY = Path(__file__).parents[2]


def all_failpoints() -> set[str]:
    """`job:place` of every call of `failpoint` in tasks and workers; one for each job where a call serves them all."""
    found: set[str] = set()
    for folder in ("tasks", "workers"):
        for file in (_REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                    found |= _named(node)
    return found


def _named(call: ast.Call) -> set[str]:
    job, place = call.args
    assert isinstance(place, ast.Constant), "a failpoint's place is a literal, so that it can be found"
    match ast.unparse(job):
        case "job.task":
            names = [each.task for each in jobs()]
        case "case.point":
            names = [f"terminations.{step}" for step in Step]
        case "RENDER.task":
            names = ["statements.render"]
        case literal:
            names = [ast.literal_eval(literal)]
    return {f"{each}:{place.value}" for each in names}
