"""Would the tests notice? Each guard is taken out of a copy of the code, and its tests must fail (W20)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import GIVEN
from tests.support.time.deadlines import deadline

_REPOSITORY = Path(__file__).parents[2]
_COPIED = ("models", "tasks", "workers", "scheduler", "email_templates", "tests", "pyproject.toml")
#: pytest's exit code where tests were run and some failed: a copy that cannot even start does not count as caught.
SOME_FAILED = 1


@dataclass(frozen=True)
class Mutation:
    guard: str
    file: str
    present: str
    taken_out: str
    tests: str


MUTATIONS = [
    Mutation(
        "asking what became of a payment",
        "tasks/collection/attempts.py",
        "    found = gateway.find(str(claimed.id), customer=item.customer, since=item.asked_at)",
        "    found = None",
        "tests/integration/collection/test_attempts.py -k before_anything_else",
    ),
    Mutation(
        "the mark of a payment that may be made",
        "models/collection/payment.py",
        "CASE WHEN asked_at IS NULL THEN 'pending' ELSE 'unknown' END",
        "'pending'",
        "tests/integration/collection/test_attempts.py -k zombie",
    ),
    Mutation(
        "the token in finish",
        "models/work/row.py",
        "WHERE id = ANY (:ids) AND claim_token = :token AND state = 'running' RETURNING id)",
        "WHERE id = ANY (:ids) AND :token IS NOT NULL AND state = 'running' RETURNING id)",
        "tests/integration/work/test_row.py -k zombie",
    ),
    Mutation(
        "the lease in rescue",
        "models/work/row.py",
        '"lease_until < now()"',
        '"true"',
        "tests/integration/work/test_row.py -k past_its_lease",
    ),
    Mutation(
        "passing over what others hold",
        "models/work/row.py",
        "FOR UPDATE SKIP LOCKED))",
        "FOR UPDATE))",
        "tests/integration/work/test_row.py -k passed_over",
    ),
    Mutation(
        "the mark of a mail that may be out",
        "models/mail/email_message.py",
        "CASE WHEN committing_at IS NULL THEN 'pending' ELSE 'unknown' END",
        "'pending'",
        "tests/integration/work/test_row.py -k worker_vanished",
    ),
    Mutation(
        "the token in the mark of a mail",
        "tasks/mail/send.py",
        "WHERE id = :id AND claim_token = :token AND state = 'running'",
        "WHERE id = :id AND :token IS NOT NULL",
        "tests/integration/mail/test_send.py -k taken_over",
    ),
    Mutation(
        "the look at the last moment",
        "tasks/mail/final_check.py",
        "                look(session, row)",
        "                pass",
        "tests/integration/mail/test_send.py -k settled_before",
    ),
    Mutation(
        "the look at a reminder at the last moment",
        "tasks/reminders/final_check.py",
        "    wanted = _still_wanted(customer, letter, planned, now)",
        "    return",
        "tests/integration/reminders/test_final_check.py -k while_the_mail_server_pauses",
    ),
    Mutation(
        "the lock under that look",
        "tasks/reminders/final_check.py",
        'ORDER BY id FOR NO KEY UPDATE""")',
        'ORDER BY id""")',
        "tests/integration/reminders/test_final_check.py -k after_the_look_waits",
    ),
    Mutation(
        "the unique index on statements",
        "models/schema/sql/010_calendar.sql",
        "-- Periods: where a billing month ends (B4).",
        "ALTER TABLE tenure.statements DROP CONSTRAINT uq_statements_account_id_currency_period_start;"
        " CREATE INDEX ON tenure.statements (account_id);\n--",
        "tests/integration/billing/test_statements.py -k racing",
    ),
    Mutation(
        "the account's row under a ledger entry's number",
        "models/schema/sql/030_ledger.sql",
        "FROM tenure.accounts WHERE id = NEW.account_id FOR NO KEY UPDATE;",
        "FROM tenure.accounts WHERE id = NEW.account_id;",
        "tests/integration/billing/test_ledger.py",
    ),
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_a_guard_that_is_taken_out_is_missed(mutation: Mutation, servers: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in _COPIED:
        source = _REPOSITORY / name
        if source.is_dir():
            # With what Python has compiled: it goes by a file's time and size, and compiles anew what is changed here.
            shutil.copytree(source, copy / name)
        else:
            shutil.copy(source, copy / name)
    file = copy / mutation.file
    code = file.read_text(encoding="utf-8")
    assert mutation.present in code, f"{mutation.file} no longer has what this takes out: {mutation.present}"
    file.write_text(code.replace(mutation.present, mutation.taken_out, 1), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0", *mutation.tests.split()],
        cwd=copy,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(copy), GIVEN: json.dumps(servers)},
        capture_output=True,
        text=True,
        timeout=deadline(170),
        check=False,
    )
    assert run.returncode == SOME_FAILED, f"without {mutation.guard}: exit {run.returncode}\n{run.stdout[-3000:]}"
    assert " failed" in run.stdout and " error" not in run.stdout.splitlines()[-1], run.stdout[-2000:]
