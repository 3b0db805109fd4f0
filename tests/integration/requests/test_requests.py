"""Requests: what one may ask for, by SQL, on a Session and through the queue, and what becomes of it (W5, W21)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from threading import Barrier, Thread
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from celery import Celery
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database
from models.billing.statement import Statement
from models.customers.account import Account
from models.mail.email_message import EmailMessage
from models.sessions.session import Session as WebSession
from models.work.request import JobRequest, Quarantined, RequestKind
from tasks.billing import statements
from tasks.client.requests import (
    KINDS,
    AccountRef,
    EmailsSendAccountSetUp,
    Request,
    RequestRefused,
    SessionsRevoke,
    StatementsSend,
    ask,
    fields,
    publish,
    submit,
)
from tasks.engine import locks
from tasks.engine.drain import drain
from tasks.ports.context import Ports, _Current, provide
from tasks.requests import inbound
from tasks.requests.handle import HANDLE
from tasks.requests.inbound import accept
from tasks.requests.registry import handled_kinds
from tests.support.rows.company import a_contact, an_account, an_entry
from tests.support.servers.processes import eventually
from tests.support.time.deadlines import deadline
from workers.celery.routing import ROUTES

#: Nothing of this may stand in an error.
SECRET = "jane.doe@customer.example"


@pytest.fixture
def account(database: Database) -> Account:
    with database.transaction() as session:
        made = an_account(session, ref="acme")
        a_contact(session, made)
    return made


@pytest.fixture
def wide(database: Database) -> None:
    """A kind with a field of every type, published as `tenure migrate` does it."""
    with database.transaction() as session:
        session.add(
            RequestKind(
                kind="tests.wide",
                version=2,
                fields={
                    "account": {"type": "account", "required": False},
                    "key": {"type": "uuid", "required": False},
                    "words": {"type": "text", "required": True},
                    "day": {"type": "date", "required": False},
                    "count": {"type": "integer", "required": False},
                    "sure": {"type": "boolean", "required": False},
                },
            )
        )


def call(database: Database, sql: str, *values: object) -> UUID:
    """`tenure.request` as a caller without any of our code writes it."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        row = connection.execute(sql, values or None).fetchone()
        assert row is not None
        made: UUID = row[0]
        return made


def requested(database: Database, kind: str | None, args: object, key: str | None = None) -> UUID:
    return call(database, "SELECT tenure.request(%s, %s, %s)", kind, json.dumps(args), key)


def refusal(database: Database, kind: str | None, args: object, key: str | None = None) -> str:
    """What a caller is told, which is one sentence, perhaps with a hint, and stores nothing."""
    before = stored(database)
    with pytest.raises(psycopg.DataError) as caught:
        requested(database, kind, args, key)
    assert stored(database) == before
    said = caught.value.diag
    assert said.message_primary is not None
    assert "\n" not in said.message_primary
    assert said.message_hint is None or said.message_hint.endswith(".")
    assert said.message_detail is None
    everything = f"{said.message_primary} {said.message_hint} {said.context}"
    assert SECRET not in everything
    return f"{said.message_primary} | {said.message_hint or ''}"


def somebody_waits(database: Database) -> bool:
    """Whether a transaction of this test's database waits for a lock."""
    with database.connection() as connection:
        return bool(
            connection.execute(
                text("""
                    SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'""")
            ).scalar_one()
        )


def stored(database: Database) -> list[JobRequest]:
    with database.transaction() as session:
        return list(session.scalars(select(JobRequest).order_by(JobRequest.id)))


def test_a_request_by_sql_is_a_row_that_is_due_at_once(database: Database, account: Account) -> None:
    made = requested(database, "statements.send", {"account": "acme"}, "order-4711")
    (row,) = stored(database)
    assert (row.id, row.kind, row.args) == (made, "statements.send", {"account": "acme"})
    assert (row.account_id, row.dedupe_key, row.source) == (account.id, "order-4711", "sql")
    assert (row.state, row.attempts) == ("pending", 0)


def test_the_shortest_call_is_the_kind_and_its_arguments(database: Database, account: Account) -> None:
    first, second = (
        call(database, """SELECT tenure.request('statements.send', '{"account": "acme"}')""") for _ in range(2)
    )
    assert first != second


def test_an_unknown_kind_is_refused_with_those_that_exist(database: Database) -> None:
    said = refusal(database, "nonsense", {})
    assert said == f'there is no request "nonsense" | One can ask for {", ".join(sorted(KINDS))}.'


def test_a_kind_that_is_null_or_endless_is_refused(database: Database) -> None:
    assert refusal(database, None, {}).startswith('there is no request "NULL"')
    assert refusal(database, "x" * 10_000, {}).startswith(f'there is no request "{"x" * 80}"')


@pytest.mark.parametrize(("args", "found"), [([], "array"), ("x", "string"), (1, "number"), (None, "null")])
def test_arguments_that_are_no_object_are_refused(database: Database, args: object, found: str) -> None:
    assert refusal(database, "statements.send", args) == (
        f'the arguments of "statements.send" must be a JSON object, not {found} | '
    )


def test_arguments_that_are_null_are_refused(database: Database) -> None:
    with pytest.raises(psycopg.DataError, match="must be a JSON object, not NULL"):
        call(database, "SELECT tenure.request('statements.send', NULL)")


def test_an_unknown_argument_is_refused_with_those_that_exist(database: Database, account: Account) -> None:
    said = refusal(database, "statements.send", {"account": "acme", "colour": SECRET})
    assert said == '"statements.send" has no argument "colour" | It takes account.'


@pytest.mark.parametrize("args", [{}, {"account": None}])
def test_a_missing_argument_is_refused(database: Database, args: object) -> None:
    assert refusal(database, "statements.send", args) == '"statements.send" needs the argument "account" | '


WRONG = [
    ("account", 17, "the ref of an account"),
    ("account", "", "the ref of an account"),
    ("account", [SECRET], "the ref of an account"),
    ("account", SECRET * 100, "the ref of an account"),
    ("key", SECRET, "a UUID"),
    ("key", 5, "a UUID"),
    ("words", 5, "text of 1 to 200 characters"),
    ("words", "", "text of 1 to 200 characters"),
    ("words", "x" * 201, "text of 1 to 200 characters"),
    ("words", {"a": SECRET}, "text of 1 to 200 characters"),
    ("day", "2020-02-30", "a date as YYYY-MM-DD"),
    ("day", "today", "a date as YYYY-MM-DD"),
    ("day", "01/02/2026", "a date as YYYY-MM-DD"),
    ("day", 20260101, "a date as YYYY-MM-DD"),
    ("count", "5", "a whole number"),
    ("count", 5.5, "a whole number"),
    ("count", 10**19, "a whole number"),
    ("count", True, "a whole number"),
    ("sure", "true", "true or false"),
    ("sure", 1, "true or false"),
]


def test_an_argument_of_the_wrong_type_is_refused_and_not_repeated(database: Database, wide: None) -> None:
    for name, value, must in WRONG:
        said = refusal(database, "tests.wide", {"words": "w", name: value})
        assert said == f'the argument "{name}" of "tests.wide" must be {must} | '


@pytest.mark.parametrize(
    "args",
    [
        {"words": "w"},
        {"words": "ß" * 200, "day": "2020-02-29", "count": -(10**17), "sure": False, "key": str(uuid4())},
        {"words": "w", "day": None, "count": None, "account": None},
        {"words": "w", "version": 2, "account": "acme", "count": 0},
    ],
)
def test_arguments_of_the_right_types_are_accepted(
    database: Database, account: Account, wide: None, args: dict[str, Any]
) -> None:
    requested(database, "tests.wide", args)
    (row,) = stored(database)
    assert row.args == {name: value for name, value in args.items() if name != "version"}
    assert row.account_id == (account.id if args.get("account") else None)


@pytest.mark.parametrize("version", [2, "1", None, {"x": 1}])
def test_an_unknown_version_is_refused_with_the_one_that_is_known(
    database: Database, account: Account, version: object
) -> None:
    said = refusal(database, "statements.send", {"account": "acme", "version": version})
    assert said.endswith('of "statements.send" is not known here | This installation knows version 1.')
    requested(database, "statements.send", {"account": "acme", "version": 1})


def test_an_account_that_is_not_known_or_not_active_is_refused(database: Database) -> None:
    with database.transaction() as session:
        an_account(session, ref="frozen", status="frozen")
        an_account(session, ref="purged", status="purged")
        session.execute(
            text("""
                INSERT INTO tenure.accounts (ref, name, currency, status)
                VALUES (tenure.purged_ref('gone'), '', 'EUR', 'purged')""")
        )
    hint = "Use the ref of an active row of tenure.accounts."
    assert refusal(database, "statements.send", {"account": SECRET}) == (
        f'the account that "statements.send" names is not known | {hint}'
    )
    for ref, state in (("frozen", "frozen"), ("purged", "purged"), ("gone", "purged")):
        said = refusal(database, "statements.send", {"account": ref})
        assert said == f'the account that "statements.send" names is {state} | Its contract was terminated.'


def test_a_message_for_an_account_whose_contract_is_over_is_dropped(database: Database, ports: Ports) -> None:
    """It names the account: in quarantine it would outlive all else of it (T10)."""
    with database.transaction() as session:
        an_account(session, ref="frozen", status="frozen")
    message = {"account": "frozen", "dedupe_key": "k"}
    assert accept("statements.send", (), message, message_id="1", ports=ports) == {"accepted": 0, "dropped": 1}
    with database.transaction() as session:
        assert session.scalars(select(Quarantined)).all() == session.scalars(select(JobRequest)).all() == []


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_dedupe_key_of_the_wrong_length_is_refused(database: Database, account: Account, key: str) -> None:
    said = refusal(database, "statements.send", {"account": "acme"}, key)
    assert said == f"a dedupe key has 1 to 200 characters, this one has {len(key)} | "


def test_the_same_key_again_is_the_same_request_and_other_arguments_are_an_error(
    database: Database, account: Account
) -> None:
    with database.transaction() as session:
        an_account(session, ref="other")
    first = requested(database, "statements.send", {"account": "acme"}, "k")
    assert requested(database, "statements.send", {"account": "acme", "version": 1}, "k") == first
    # A key belongs to its kind.
    assert requested(database, "sessions.revoke", {"account": "acme"}, "k") != first
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        requested(database, "statements.send", {"account": "other"}, "k")
    assert caught.value.diag.message_primary == 'the dedupe key of this "statements.send" was used for other arguments'
    assert caught.value.diag.message_hint == "Use a new key for a new request, or the same arguments for the same one."
    assert caught.value.diag.message_detail is None
    assert len(stored(database)) == 2


def test_a_request_that_is_done_is_still_the_same_request(database: Database, account: Account, ports: Ports) -> None:
    first = requested(database, "sessions.revoke", {"account": "acme"}, "k")
    assert drain(HANDLE, ports) == {"handled": 1}
    assert requested(database, "sessions.revoke", {"account": "acme"}, "k") == first
    assert drain(HANDLE, ports) == {"handled": 0}


def test_racing_callers_with_the_same_key_make_one_row(database: Database, account: Account) -> None:
    start = Barrier(8)

    def race(number: int) -> UUID:
        start.wait(timeout=deadline(30))
        return requested(database, "statements.send", {"account": "acme"}, "the same")

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(race, range(8)))
    assert [row.id for row in stored(database)] == [made[0]]
    assert len(set(made)) == 1


@pytest.mark.parametrize("first_commits", [True, False])
def test_a_caller_waits_for_another_who_has_the_same_key_and_has_not_committed(
    database: Database, account: Account, first_commits: bool
) -> None:
    second: list[UUID] = []

    def race() -> None:
        second.append(requested(database, "statements.send", {"account": "acme"}, "the same"))

    thread = Thread(target=race)
    try:
        with database.transaction() as session:
            first = submit(session, StatementsSend(account="acme"), dedupe_key="the same")
            thread.start()
            eventually(lambda: somebody_waits(database), "the second caller waits")
            assert not second
            if not first_commits:
                raise InterruptedError
    except InterruptedError:
        pass
    thread.join(timeout=deadline(30))
    assert (second == [first]) is first_commits
    assert [row.id for row in stored(database)] == second


def test_a_transaction_that_rolls_back_asked_for_nothing(database: Database, account: Account) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        submit(session, StatementsSend(account="acme"))
        raise ZeroDivisionError
    assert stored(database) == []


def test_a_source_that_does_not_exist_is_refused_and_the_arguments_are_not_repeated(
    database: Database, account: Account
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        call(database, "SELECT tenure.request('statements.send', '{\"account\": \"acme\"}', NULL, 'elsewhere')")
    assert "acme" not in str(caught.value)
    assert stored(database) == []


@pytest.mark.parametrize("kind", ["terminations.request", "terminations.cancel", "invoices.void"])
def test_what_ends_a_contract_or_gives_money_back_cannot_be_asked_for_by_a_message(
    database: Database, account: Account, ports: Ports, kind: str
) -> None:
    assert accept(kind, [], {"account": "acme"}, message_id="m-1", ports=ports) == {"accepted": 0, "quarantined": 1}
    assert stored(database) == []
    (kept,) = quarantined(database)
    assert kept.reason.startswith(f'"{kind}" cannot be asked for by a message. Call tenure.request in SQL')


def test_submit_stores_a_typed_request_in_the_callers_transaction(database: Database, account: Account) -> None:
    with database.transaction() as session:
        first = submit(session, SessionsRevoke(account="acme"), dedupe_key="k")
        assert submit(session, SessionsRevoke(account="acme"), dedupe_key="k") == first
    (row,) = stored(database)
    assert (row.id, row.kind, row.args, row.account_id) == (
        first,
        "sessions.revoke",
        {"account": "acme"},
        account.id,
    )


def test_a_refused_request_leaves_the_callers_transaction_usable(database: Database, account: Account) -> None:
    with database.transaction() as session:
        an_account(session, ref="before")
        with pytest.raises(RequestRefused) as caught:
            submit(session, StatementsSend(account=SECRET))
        with pytest.raises(RequestRefused):
            submit(session, StatementsSend(account="acme"), dedupe_key="")
        an_account(session, ref="after")
        submit(session, StatementsSend(account="acme"))
    assert str(caught.value) == (
        'the account that "statements.send" names is not known. Use the ref of an active row of tenure.accounts.'
    )
    with database.transaction() as session:
        assert set(session.scalars(select(Account.ref))) == {"acme", "before", "after"}
    assert len(stored(database)) == 1


@pytest.mark.parametrize("wrong", [17, None, "", "x" * 201])
def test_a_field_of_the_wrong_type_never_reaches_the_database(database: Database, wrong: Any) -> None:
    with database.transaction() as session, pytest.raises(msgspec.ValidationError) as caught:
        submit(session, StatementsSend(account=wrong))
    assert "`$.account`" in str(caught.value)


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
def test_what_postgresql_cannot_keep_as_text_is_refused_in_a_sentence(
    database: Database, account: Account, key: str
) -> None:
    with database.transaction() as session:
        with pytest.raises(RequestRefused) as caught:
            submit(session, StatementsSend(account="acme"), dedupe_key=key)
        assert str(caught.value).endswith(".")
        with pytest.raises(RequestRefused):
            submit(session, StatementsSend(account=key))
        assert submit(session, StatementsSend(account="acme"), dedupe_key="🔑 with ümlauts 👩‍👩‍👧")


def test_what_is_published_is_what_the_classes_say(database: Database) -> None:
    with database.transaction() as session:
        published = {
            row.kind: (row.version, row.fields, tuple(row.ways)) for row in session.scalars(select(RequestKind))
        }
    assert published == {name: (kind.version, fields(kind), kind.ways) for name, kind in KINDS.items()}
    assert fields(StatementsSend) == {"account": {"type": "account", "required": True}}


def test_publishing_again_leaves_kinds_of_other_versions(database: Database, wide: None) -> None:
    with database.transaction() as session:
        before = set(session.scalars(select(RequestKind.kind)))
    for _ in range(2):
        with database.transaction() as session:
            publish(session)
    with database.transaction() as session:
        assert set(session.scalars(select(RequestKind.kind))) == before > set(KINDS)


def test_every_type_of_field_has_its_name_in_the_database() -> None:
    class Wide(msgspec.Struct, kw_only=True):
        account: AccountRef
        key: UUID
        words: str
        day: date
        count: int
        sure: bool
        perhaps: date | None = None

    described = fields(Wide)  # type: ignore[arg-type]
    assert {name: rule["type"] for name, rule in described.items()} == {
        "account": "account",
        "key": "uuid",
        "words": "text",
        "day": "date",
        "count": "integer",
        "sure": "boolean",
        "perhaps": "date",
    }
    assert [name for name, rule in described.items() if not rule["required"]] == ["perhaps"]


def test_every_kind_has_a_handler_a_route_and_a_task() -> None:
    assert set(KINDS) == handled_kinds() == {kind.kind for kind in Request.__subclasses__()}
    assert set(KINDS) <= set(ROUTES)
    tasks = Celery("tests", set_as_current=False).tasks
    assert {name for name, task in tasks.items() if isinstance(task, inbound.Inbound)} == set(KINDS)


def test_a_web_tier_that_imports_the_requests_gets_neither_celery_nor_the_rest_of_tenure() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, tasks.client.requests; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=deadline(60),
    ).stdout.split()
    assert "tasks.client.requests" in loaded
    top = {name.partition(".")[0] for name in loaded}
    assert not top & {"celery", "kombu", "workers", "scheduler", "email_templates", "boto3", "jinja2", "typst", "redis"}
    assert {name for name in loaded if name.startswith("tasks.")} == {
        "tasks.client",
        "tasks.client.requests",
        "tasks.storage",
        "tasks.storage.text",
    }


def quarantined(database: Database) -> list[Quarantined]:
    with database.transaction() as session:
        return list(session.scalars(select(Quarantined)))


def test_a_good_message_becomes_a_request_once_however_often_it_is_delivered(
    database: Database, ports: Ports, account: Account
) -> None:
    for _ in range(5):
        counts = accept("statements.send", [], {"account": "acme"}, message_id="m-1", ports=ports)
        assert counts == {"accepted": 1}
    (row,) = stored(database)
    assert (row.kind, row.args, row.account_id) == ("statements.send", {"account": "acme"}, account.id)
    assert (row.source, row.dedupe_key) == ("queue", "message:m-1")
    assert quarantined(database) == []


def test_two_messages_with_the_same_dedupe_key_are_one_request(
    database: Database, ports: Ports, account: Account
) -> None:
    for number in range(2):
        accept(
            "statements.send",
            [],
            {"account": "acme", "dedupe_key": "order-4711"},
            message_id=f"m-{number}",
            ports=ports,
        )
    (row,) = stored(database)
    assert (row.dedupe_key, row.args) == ("order-4711", {"account": "acme"})


def test_messages_with_odd_ids_are_requests_of_their_own(database: Database, ports: Ports, account: Account) -> None:
    odd = ["x" * 1_000_000, "x" * 1_000_001, "a\0b", "\ud800", "None"]
    for message_id in odd * 2:
        assert accept("statements.send", [], {"account": "acme"}, message_id=message_id, ports=ports) == {"accepted": 1}
        accept("statements.send", [], {}, message_id=message_id, ports=ports)
    assert len(stored(database)) == len(quarantined(database)) == len(odd)


UNACCEPTABLE: list[tuple[list[Any], dict[str, Any], str]] = [
    (["acme"], {}, '"statements.send" takes keyword arguments only, and 1 came without a name.'),
    ([], {}, '"statements.send" needs the argument "account".'),
    ([], {"account": "acme", "colour": 1}, '"statements.send" has no argument "colour". It takes account.'),
    ([], {"account": 17}, 'the argument "account" of "statements.send" must be the ref of an account.'),
    ([], {"account": SECRET}, 'the account that "statements.send" names is not known. Use the ref of'),
    ([], {"account": "acme", "version": 9}, 'version 9 of "statements.send" is not known here.'),
    ([], {"account": "acme", "dedupe_key": 5}, "the dedupe key must be text of 1 to 200 characters."),
    ([], {"account": "acme", "dedupe_key": ""}, "a dedupe key has 1 to 200 characters, this one has 0."),
    ([], {"account": "acme", "dedupe_key": "x" * 1_000_000}, "a dedupe key has 1 to 200 characters, this one"),
    ([], {"account": "acme", "dedupe_key": "a\0b"}, "the dedupe key holds a NUL"),
    ([], {"account": "acme", "dedupe_key": "\udead"}, "the dedupe key holds a NUL or half"),
    ([], {"account": "a\0b"}, "unsupported Unicode escape sequence"),
    ([], {"account": "\ud800"}, ""),
    ([], {"account": "🦆"}, 'the account that "statements.send" names is not known.'),
    ([], {"account": "acme" + "é" * 1_000_000}, 'the argument "account" of "statements.send" must be'),
    ([], {"x" * 1_000_000: 1}, '"statements.send" has no argument "xxx'),
    ([], {"a\0": 1}, "unsupported Unicode escape sequence"),
    ([], {"account": float("nan")}, ""),
    ([], {"account": 2**100}, 'the argument "account" of "statements.send" must be'),
    ([], {"account": [[[{"deep": [None]}]]]}, 'the argument "account" of "statements.send" must be'),
    ([[1], {"a": "🦆"}], {"account": "acme"}, '"statements.send" takes keyword arguments only, and 2 came'),
]


def test_what_cannot_be_accepted_is_kept_once_and_whole_with_its_reason(
    database: Database, ports: Ports, account: Account
) -> None:
    for number, (args, kwargs, _) in enumerate(UNACCEPTABLE):
        for _ in range(5):
            counts = accept("statements.send", args, kwargs, message_id=f"m-{number}", ports=ports)
            assert counts == {"accepted": 0, "quarantined": 1}
    assert stored(database) == []
    found = {kept.message_id: kept for kept in quarantined(database)}
    assert len(found) == len(UNACCEPTABLE)
    for number, (args, kwargs, reason) in enumerate(UNACCEPTABLE):
        kept = found[f"m-{number}"]
        assert kept.kind == "statements.send"
        assert kept.reason.startswith(reason)
        assert kept.reason.endswith(".")
        assert SECRET not in kept.reason
        assert len(kept.reason) < 500
        whole = json.loads(kept.body)
        assert json.dumps(whole, sort_keys=True) == json.dumps({"args": args, "kwargs": kwargs}, sort_keys=True)


@pytest.fixture
def celery_task(ports: Ports) -> Iterator[Callable[..., dict[str, int]]]:
    """The shell of `statements.send` as a worker calls it, over this test's ports."""
    provide(lambda: ports)
    yield Celery("tests", set_as_current=False).tasks["statements.send"]
    _Current.build = _Current.ports = None


def test_an_argument_with_the_name_of_one_of_ours_is_quarantined_like_any_other(
    database: Database, account: Account, celery_task: Callable[..., dict[str, int]]
) -> None:
    assert celery_task(account="acme") == {"accepted": 1}
    for name in ("self", "args", "kwargs", "kind", "session"):
        assert celery_task(**{name: 1}) == {"accepted": 0, "quarantined": 1}


def a_customer(database: Database) -> Account:
    """With a closed period, a contact that gets statements and one that does not."""
    with database.transaction() as session:
        made = an_account(session, ref="customer")
        a_contact(session, made)
        a_contact(session, made, receives_statements=False)
        an_entry(session, made, 5_000)
    return made


def mails(database: Database) -> list[EmailMessage]:
    with database.transaction() as session:
        return list(session.scalars(select(EmailMessage).order_by(EmailMessage.id)))


def handled(database: Database, ports: Ports, request: Request, key: str | None = None) -> JobRequest:
    with database.transaction() as session:
        made = submit(session, request, dedupe_key=key)
    drain(HANDLE, ports)
    with database.transaction() as session:
        return session.get_one(JobRequest, made)


def test_a_statement_that_the_clock_has_not_planned_is_made_on_request_and_sent_once(
    database: Database, ports: Ports
) -> None:
    a_customer(database)
    assert handled(database, ports, StatementsSend(account="customer")).state == "done"
    assert ports.wake.woken == list(HANDLE.wakes)  # type: ignore[attr-defined]
    assert mails(database) == []
    assert drain(statements.RENDER, ports) == {"rendered": 1}
    assert len(mails(database)) == 1
    assert statements.plan(ports)["planned"] == 0


def test_a_statement_that_is_planned_and_not_sent_yet_is_not_sent_twice(database: Database, ports: Ports) -> None:
    a_customer(database)
    statements.plan(ports)
    assert handled(database, ports, StatementsSend(account="customer")).state == "done"
    drain(statements.RENDER, ports)
    assert len(mails(database)) == 1


def test_a_statement_that_was_sent_is_sent_once_more_for_each_new_request(database: Database, ports: Ports) -> None:
    a_customer(database)
    statements.plan(ports)
    drain(statements.RENDER, ports)
    for _ in range(3):
        handled(database, ports, StatementsSend(account="customer"), "asked once")
    assert len(mails(database)) == 2
    handled(database, ports, StatementsSend(account="customer"), "asked again")
    found = mails(database)
    assert len(found) == 3
    assert len({json.dumps(mail.attachments) for mail in found}) == 1
    assert len({mail.message_id for mail in found}) == 3
    with database.transaction() as session:
        assert len(session.scalars(select(Statement)).all()) == 1


def test_a_statement_that_failed_is_made_for_a_request_and_one_that_nobody_gets_says_so(
    database: Database, ports: Ports
) -> None:
    account = a_customer(database)
    with database.transaction() as session:
        session.execute(text("UPDATE tenure.contacts SET receives_statements = false"))
    statements.plan(ports)
    assert drain(statements.RENDER, ports) == {"rendered": 0, "failed": 1}
    with database.transaction() as session:
        session.execute(text("UPDATE tenure.contacts SET receives_statements = true"))
    assert handled(database, ports, StatementsSend(account=account.ref)).state == "done"
    assert drain(statements.RENDER, ports) == {"rendered": 1}
    # To both of its contacts.
    assert len(mails(database)) == 2
    with database.transaction() as session:
        session.execute(text("UPDATE tenure.contacts SET receives_statements = false"))
    nobody = handled(database, ports, StatementsSend(account=account.ref), "once more")
    assert nobody.state == "failed"
    assert nobody.last_error is not None
    assert nobody.last_error.startswith("The account has no contact that receives statements")


def test_a_request_for_a_statement_where_there_is_nothing_to_state_fails_and_says_so(
    database: Database, ports: Ports
) -> None:
    with database.transaction() as session:
        an_account(session, ref="customer")
    failed = handled(database, ports, StatementsSend(account="customer"))
    assert (failed.state, failed.attempts) == ("failed", 1)
    assert failed.last_error == (
        "The account has no closed period with entries in its ledger yet: there is nothing to state."
    )


def test_a_request_for_a_statement_waits_for_those_who_write_to_the_ledger(database: Database, ports: Ports) -> None:
    account = a_customer(database)
    with database.transaction() as session:
        made = submit(session, StatementsSend(account="customer"))
    handling_ = Thread(target=drain, args=(HANDLE, ports))
    with database.transaction() as writer:
        an_entry(writer, account, 700)
        handling_.start()
        eventually(lambda: somebody_waits(database), "the request waits for the ledger")
    handling_.join(timeout=deadline(30))
    with database.transaction() as session:
        assert session.get_one(JobRequest, made).state == "done"
        # What was being written then is on it.
        assert session.scalars(select(Statement)).one().closing == 5_700


def test_a_ledger_that_stays_locked_puts_the_request_off_and_does_not_fail_it(
    database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", timedelta(milliseconds=50))
    account = a_customer(database)
    with database.transaction() as session:
        made = submit(session, StatementsSend(account="customer"))
    with database.transaction() as writer:
        an_entry(writer, account, 700)
        assert drain(HANDLE, ports) == {"handled": 0, "retried": 1}
    with database.transaction() as session:
        row = session.get_one(JobRequest, made)
        assert row.state == "pending"
        assert row.last_error is not None
        assert row.last_error.startswith("A transaction that writes to the account's ledger is still open")


def test_sessions_are_revoked_and_each_contact_is_told_once(database: Database, ports: Ports) -> None:
    account = a_customer(database)
    with database.transaction() as session:
        other = an_account(session, ref="other")
        session.add_all([WebSession(account_id=account.id, secret_sha256=bytes(32)) for _ in range(3)])
        session.add(WebSession(account_id=other.id, secret_sha256=bytes(32)))
    assert handled(database, ports, SessionsRevoke(account="customer"), "k").state == "done"
    handled(database, ports, SessionsRevoke(account="customer"), "k")
    with database.transaction() as session:
        assert set(session.scalars(select(WebSession.account_id))) == {other.id}
    found = mails(database)
    assert [mail.context["sessions"] for mail in found] == [3, 3]
    assert {mail.message for mail in found} == {"security-notice"}
    assert all(mail.urgent for mail in found)
    assert len({mail.contact_id for mail in found}) == 2


def test_contacts_are_welcomed_once_ever_however_often_it_is_asked(database: Database, ports: Ports) -> None:
    account = a_customer(database)
    for key in ("first", "second"):
        assert handled(database, ports, EmailsSendAccountSetUp(account="customer"), key).state == "done"
    assert len(mails(database)) == 2
    with database.transaction() as session:
        a_contact(session, account)
    handled(database, ports, EmailsSendAccountSetUp(account="customer"), "third")
    found = mails(database)
    assert len(found) == 3
    assert len({mail.contact_id for mail in found}) == 3


def test_a_handler_that_fails_half_way_leaves_nothing_of_its_effects(database: Database, ports: Ports) -> None:
    account = a_customer(database)
    with database.transaction() as session:
        session.add(WebSession(account_id=account.id, secret_sha256=bytes(32)))
        # The mail's row is refused after the sessions were deleted.
        session.execute(text("ALTER TABLE tenure.email_messages ADD CHECK (message <> 'security-notice')"))
    failed = handled(database, ports, SessionsRevoke(account="customer"))
    assert (failed.state, failed.attempts) == ("pending", 1)
    assert (failed.last_error or "").startswith("IntegrityError at ")
    with database.transaction() as session:
        assert len(session.scalars(select(WebSession)).all()) == 1


def test_a_kind_without_a_handler_is_left_to_another_worker(database: Database, ports: Ports, wide: None) -> None:
    with database.transaction() as session:
        an_account(session, ref="customer")
        made = ask(session, "tests.wide", {"account": "customer", "words": "w"}, dedupe_key=None, source="operator")
    assert drain(HANDLE, ports) == {"handled": 0}
    with database.transaction() as session:
        row = session.get_one(JobRequest, made)
    assert (row.state, row.attempts, row.last_error) == ("pending", 0, None)


def test_what_counts_is_the_account_of_the_row_not_what_its_arguments_were_changed_to(
    database: Database, ports: Ports
) -> None:
    a_customer(database)
    with database.transaction() as session:
        other = an_account(session, ref="other", created_at=datetime(2020, 1, 1, tzinfo=UTC))
        a_contact(session, other)
        submit(session, EmailsSendAccountSetUp(account="customer"))
        session.execute(text("""UPDATE tenure.job_requests SET args = '{"account": "other"}'"""))
    drain(HANDLE, ports)
    assert {mail.account_id for mail in mails(database)} != {other.id}
    assert {mail.context["account_ref"] for mail in mails(database)} == {"customer"}


def test_a_message_that_is_not_accepted_through_a_fault_of_ours_is_kept(database: Database, ports: Ports) -> None:
    """Where the database lacks a function, say: the message survives, and is told from a bad one."""
    with database.connection() as connection:
        connection.execute(text("DROP FUNCTION tenure.request"))
    with pytest.raises(DBAPIError) as raised:
        inbound.accept("sessions.revoke", (), {"account": "acme"}, message_id="unlucky", ports=ports)
    for _ in range(2):
        told = inbound.keep("sessions.revoke", (), {"account": "acme"}, raised.value, message_id="unlucky", ports=ports)
        assert told == {"accepted": 0, "quarantined": 1}
    with database.connection() as connection:
        kept = connection.execute(text("SELECT * FROM tenure.quarantine")).one()
    assert kept.body == b'{"args": [], "kwargs": {"account": "acme"}}'
    assert "through a fault of Tenure's (ProgrammingError at" in kept.reason
