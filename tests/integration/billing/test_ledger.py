"""The ledger and its calendar: append-only, numbered in the order of commits, periods that end where they should
(B1, B3, B4)."""

from __future__ import annotations

import contextlib
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from threading import Event, Thread
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from models.base.money import MoneyError
from models.base.unit_of_work import Database
from models.billing.ledger import EntryKind, LedgerEntry
from models.customers.account import Account
from tests.support.rows.company import an_account, an_entry
from tests.support.time.deadlines import deadline

pytestmark = pytest.mark.clock("2026-11-22 12:00")

#: Zones whose clocks jump at midnight, by half an hour, over the date line, or by three hours.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/Lisbon",
    "America/New_York",
    "America/Santiago",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Asuncion",
    "America/Scoresbysund",
    "America/St_Johns",
    "Atlantic/Azores",
    "Asia/Beirut",
    "Asia/Amman",
    "Asia/Tehran",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Antarctica/Casey",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Fakaofo",
    "Pacific/Norfolk",
]
QUARTER = timedelta(minutes=15)


def period_end(start: date, billing_day: int) -> date:
    """The first billing day after `start`, found by walking: in each month it is that day or the month's last."""
    day = start
    while True:
        day += timedelta(days=1)
        if day.day == min(billing_day, monthrange(day.year, day.month)[1]):
            return day


def test_a_period_ends_on_the_next_billing_day_from_any_start_and_for_any_day(database: Database) -> None:
    # Two years of which one is a leap year, the turn of a century that is none, and one that is.
    starts = [first + timedelta(days=number) for first in (date(2027, 1, 1), date(2100, 1, 1)) for number in range(430)]
    starts += [date(2000, 1, 1) + timedelta(days=number) for number in range(70)]
    with database.connection() as connection:
        found = connection.execute(
            text("""
                SELECT start, billing_day, tenure.period_end(start, billing_day) AS ends
                  FROM unnest(CAST(:starts AS date[])) AS start, generate_series(1, 31) AS billing_day"""),
            {"starts": starts},
        ).all()
    assert len(found) == len(starts) * 31
    wrong = [row for row in found if row.ends != period_end(row.start, row.billing_day)]
    assert wrong == []


@pytest.mark.parametrize("billing_day", [1, 15, 28, 29, 30, 31])
def test_periods_follow_one_another_with_one_billing_day_a_month(database: Database, billing_day: int) -> None:
    day, days = date(2027, 12, 31), []
    with database.connection() as connection:
        for _ in range(15):
            day = connection.execute(
                text("SELECT tenure.period_end(:day, :billing_day)"), {"day": day, "billing_day": billing_day}
            ).scalar_one()
            days.append(day)
    # After the first, which may be short, one a month: none is skipped, none comes twice.
    months = [each.year * 12 + each.month for each in days]
    assert all(after - before == 1 for before, after in pairwise(months))
    assert {each.day for each in days} <= {billing_day, 28, 29, 30}


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    return instant.astimezone(zone).date()


def day_begins(day: date, zone: ZoneInfo) -> datetime:
    """The first instant after which the local date never is earlier than `day`, seen quarter by quarter."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    instant = noon + timedelta(days=2)
    while local_date(instant - QUARTER, zone) >= day:
        instant -= QUARTER
    return instant


def interesting_days(zone: ZoneInfo) -> Iterator[date]:
    """The days around each change of the zone's offset, and the first of every third month."""
    for year in range(1990, 2026):
        for month in (1, 4, 7, 10):
            yield date(year, month, 1)
        before = datetime(year, 1, 1, tzinfo=UTC)
        for number in range(1, 366):
            instant = before + timedelta(days=number)
            if instant.astimezone(zone).utcoffset() != (instant - timedelta(days=1)).astimezone(zone).utcoffset():
                for around in (-2, -1, 0, 1):
                    yield instant.date() + timedelta(days=around)


def test_a_local_day_begins_when_no_earlier_one_comes_after_it(database: Database) -> None:
    assert {name: wrong for name in ZONES if (wrong := wrong_days(database, name))} == {}


def wrong_days(database: Database, name: str) -> list[tuple[date, datetime | None, datetime]]:
    """The days that PostgreSQL begins elsewhere, with where it does and where they begin."""
    zone = ZoneInfo(name)
    days = sorted(set(interesting_days(zone)))
    expected = {day: day_begins(day, zone) for day in days}
    with database.connection() as connection:
        found = connection.execute(
            text("""
                SELECT day, tenure.day_begins(day, :zone) AS begins,
                       expected AT TIME ZONE :zone AS local_then
                  FROM unnest(CAST(:days AS date[]), CAST(:expected AS timestamptz[])) AS t (day, expected)"""),
            {"zone": name, "days": days, "expected": list(expected.values())},
        ).all()
    return [
        (row.day, row.begins, expected[row.day])
        for row in found
        # Where PostgreSQL's own book of time zones is another edition than Python's, they cannot be compared.
        if row.local_then == expected[row.day].astimezone(zone).replace(tzinfo=None) and row.begins != expected[row.day]
    ]


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        # Midnight is skipped: the day begins when the clock has jumped.
        ("America/Santiago", date(2023, 9, 3), datetime(2023, 9, 3, 4, tzinfo=UTC)),
        ("Asia/Beirut", date(2022, 3, 27), datetime(2022, 3, 26, 22, tzinfo=UTC)),
        # Midnight comes twice: the repeated hour belongs to the day before.
        ("America/Havana", date(2021, 11, 7), datetime(2021, 11, 7, 4, tzinfo=UTC)),
        ("Asia/Beirut", date(2021, 10, 31), datetime(2021, 10, 30, 22, tzinfo=UTC)),
        # A day that never was, and the one that came in its place.
        ("Pacific/Apia", date(2011, 12, 30), datetime(2011, 12, 30, 10, tzinfo=UTC)),
        ("Pacific/Apia", date(2011, 12, 31), datetime(2011, 12, 30, 10, tzinfo=UTC)),
    ],
)
def test_days_whose_midnight_is_skipped_or_comes_twice(
    database: Database, zone: str, day: date, begins: datetime
) -> None:
    with database.connection() as connection:
        found = connection.execute(text("SELECT tenure.day_begins(:day, :zone)"), {"day": day, "zone": zone})
        assert found.scalar_one() == begins


def test_an_account_closes_its_period_where_its_time_zone_and_billing_day_say(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session, billing_day=31, period_start=date(2027, 1, 31), time_zone="Asia/Tokyo")
    assert account.statement_due_at == datetime(2027, 2, 27, 15, tzinfo=UTC)
    with database.transaction() as session:
        session.get_one(Account, account.id).time_zone = "America/New_York"
    with database.transaction() as session:
        assert session.get_one(Account, account.id).statement_due_at == datetime(2027, 2, 28, 5, tzinfo=UTC)


@pytest.mark.parametrize("status", ["frozen", "purged"])
def test_no_period_of_an_account_closes_while_it_is_not_active(database: Database, status: str) -> None:
    with database.transaction() as session:
        account = an_account(session)
        account_id, due_at = account.id, account.statement_due_at
        account.status = status  # type: ignore[assignment]
    with database.transaction() as session:
        account = session.get_one(Account, account_id)
        assert account.statement_due_at is None
        session.execute(text("SELECT set_config('tenure.purging', :id, true)"), {"id": str(account_id)})
        account.status = "active"  # type: ignore[assignment]
    with database.transaction() as session:
        assert session.get_one(Account, account_id).statement_due_at == due_at


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "Berlin"])
def test_an_unknown_time_zone_is_refused_in_a_sentence(database: Database, zone: str) -> None:
    with pytest.raises(DBAPIError) as caught, database.transaction() as session:
        an_account(session, time_zone=zone, period_start=date(2026, 10, 1))
    assert caught.value.orig.diag.message_primary == (  # type: ignore[union-attr]
        f'time zone "{zone}" is not one that PostgreSQL knows; use an IANA name such as Europe/Vienna'
    )


@pytest.fixture
def entry(database: Database) -> LedgerEntry:
    with database.transaction() as session:
        return an_entry(session, an_account(session), 1_000)


@pytest.mark.parametrize(
    ("change", "verb"),
    [
        ("UPDATE tenure.ledger_entries SET amount = 1", "UPDATE"),
        ("UPDATE tenure.ledger_entries SET description = 'x' WHERE false", "UPDATE"),
        ("DELETE FROM tenure.ledger_entries", "DELETE"),
        ("TRUNCATE tenure.ledger_entries CASCADE", "TRUNCATE"),
    ],
)
def test_what_stands_in_the_ledger_stays(database: Database, entry: LedgerEntry, change: str, verb: str) -> None:
    with pytest.raises(IntegrityError) as caught, database.connection() as connection:
        connection.execute(text(change))
    assert caught.value.orig.diag.message_primary == (  # type: ignore[union-attr]
        f"the ledger is append-only: {verb} is refused; write a credit, refund or charge that corrects it"
    )
    with database.transaction() as session:
        assert session.scalars(select(LedgerEntry.amount)).all() == [1_000]


def test_an_entry_has_the_sign_of_its_kind(database: Database) -> None:
    accepted = set()
    with database.transaction() as session:
        account = an_account(session)
        for kind in ("charge", "payment", "credit", "refund", "chargeback"):
            for amount in (-1, 0, 1):
                try:
                    with session.begin_nested():
                        an_entry(session, account, amount, kind=kind)
                except IntegrityError as error:
                    assert "ck_ledger_entries_sign" in str(error)
                else:
                    accepted.add((kind, amount))
    assert accepted == {("charge", 1), ("payment", -1), ("credit", -1), ("refund", 1), ("chargeback", 1)}


@pytest.mark.parametrize(
    "values", [{"currency": "eur"}, {"currency": "EU"}, {"kind": "gift"}, {"external_ref": "same"}]
)
def test_what_is_no_entry_is_refused(database: Database, values: dict[str, Any]) -> None:
    with database.transaction() as session:
        account = an_account(session)
        an_entry(session, account, 1, external_ref="same")
    with pytest.raises((IntegrityError, DBAPIError, LookupError)), database.transaction() as session:
        an_entry(session, account, 1, **values)


def test_a_writer_cannot_choose_the_number_of_an_entry(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session)
        an_entry(session, account, 1, sequence=1_000_000)
        an_entry(session, account, 2, sequence=-5)
    with database.transaction() as session:
        first, second = session.scalars(select(LedgerEntry.sequence).order_by(LedgerEntry.amount))
    assert 0 < first < second < 1_000_000


def test_the_writer_that_began_first_and_commits_last_has_the_higher_number(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session)
    begun, go_on = Event(), Event()
    numbers: dict[str, int] = {}

    def slow() -> None:
        with database.transaction() as session:
            session.execute(text("SELECT now()"))
            begun.set()
            assert go_on.wait(timeout=deadline(30))
            numbers["began first"] = an_entry(session, account, 1).sequence

    thread = Thread(target=slow)
    thread.start()
    assert begun.wait(timeout=deadline(30))
    with database.transaction() as session:
        numbers["committed first"] = an_entry(session, account, 1).sequence
    go_on.set()
    thread.join(timeout=deadline(30))
    assert numbers["committed first"] < numbers["began first"]


def test_an_entry_that_becomes_visible_later_never_has_a_lower_number(database: Database) -> None:
    """Many writers at once; a reader looks all the time, and no number appears below one that it has seen."""
    with database.transaction() as session:
        account = an_account(session)
    over = Event()
    seen: list[set[int]] = []

    def write() -> None:
        for _ in range(25):
            with database.transaction() as session:
                an_entry(session, account, 1)

    def read() -> None:
        while not over.is_set():
            with database.transaction() as session:
                seen.append(set(session.scalars(select(LedgerEntry.sequence))))

    writers = [Thread(target=write) for _ in range(4)]
    reader = Thread(target=read)
    for thread in [*writers, reader]:
        thread.start()
    for thread in writers:
        thread.join(timeout=deadline(60))
    over.set()
    reader.join(timeout=deadline(30))
    assert len({number for numbers in seen for number in numbers}) <= 100
    for before, after in pairwise(seen):
        assert before <= after
        assert not before or all(number > max(before) for number in after - before)


def test_writers_of_one_account_queue_up_and_those_of_another_do_not_wait(database: Database) -> None:
    with database.transaction() as session:
        account, other = an_account(session), an_account(session)
    with database.transaction() as first:
        an_entry(first, account, 1)
        with database.transaction() as second:
            second.execute(text("SET LOCAL lock_timeout = '100ms'"))
            an_entry(second, other, 1)
        with pytest.raises(DBAPIError) as caught, database.transaction() as second:
            second.execute(text("SET LOCAL lock_timeout = '100ms'"))
            an_entry(second, account, 1)
        assert caught.value.orig.sqlstate == "55P03"  # type: ignore[union-attr]


def test_an_entry_of_an_account_that_does_not_exist_is_refused(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session)
        session.expunge(account)
        account.id = UUID(int=0)
        with pytest.raises(IntegrityError):
            an_entry(session, account, 1)
        session.rollback()


def test_the_entries_of_an_account_are_numbered_without_a_gap_whatever_is_rolled_back(database: Database) -> None:
    with database.transaction() as session:
        account, other = an_account(session), an_account(session)

    def write(number: int) -> None:
        for step in range(10):
            with contextlib.suppress(RuntimeError), database.transaction() as session:
                an_entry(session, account, 1)
                an_entry(session, other, 1)
                if (number + step) % 3 == 0:
                    raise RuntimeError

    writers = [Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(timeout=deadline(60))
    with database.transaction() as session:
        for each in (account, other):
            numbers = session.scalars(
                select(LedgerEntry.sequence).filter_by(account_id=each.id).order_by(LedgerEntry.sequence)
            ).all()
            assert numbers == list(range(1, len(numbers) + 1))
            assert 20 <= len(numbers) < 40


@pytest.mark.parametrize("status", ["frozen", "purged"])
def test_an_account_that_is_not_active_takes_no_entry(database: Database, status: str) -> None:
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        account.status = status  # type: ignore[assignment]
    for write in (
        lambda session: an_entry(session, account, 100),
        lambda session: session.execute(text("SELECT tenure.record_entry('acme', 'payment', 'EUR', 1, 'x')")),
    ):
        with pytest.raises(IntegrityError) as caught, database.transaction() as session:
            write(session)
        assert caught.value.orig.diag.message_primary == (  # type: ignore[union-attr]
            f"the account is {status}: its ledger takes no more entries"
        )
    with database.transaction() as session:
        assert session.scalars(select(LedgerEntry)).all() == []


@pytest.mark.parametrize("amount", [1.5, 1.0, Decimal("1.5"), "100", None, True])
def test_an_amount_that_is_no_whole_number_is_refused_in_python(database: Database, amount: Any) -> None:
    with database.transaction() as session:
        account = an_account(session)
        with pytest.raises(MoneyError, match="whole number of minor units"):
            LedgerEntry(account_id=account.id, amount=amount)


def test_a_currency_that_does_not_exist_is_refused_in_a_sentence(database: Database) -> None:
    with database.transaction() as session:
        account = an_account(session)
    for write in (
        lambda session: an_entry(session, account, 1, currency="ABC"),
        lambda session: an_account(session, currency="ABC"),
    ):
        with pytest.raises(DBAPIError) as caught, database.transaction() as session:
            write(session)
        assert caught.value.orig.diag.message_primary == (  # type: ignore[union-attr]
            '"ABC" is not a currency of ISO 4217; use a code such as EUR'
        )


RECORD = """
    SELECT tenure.record_entry(account => :account, kind => :kind, currency => :currency, amount => :amount,
                               description => 'Service', external_ref => :external_ref, tax_category => :tax_category,
                               tax_rate => :tax_rate, applies_to => :applies_to, reverses => :reverses)"""
RIGHT = {
    "account": "acme",
    "kind": "charge",
    "currency": "EUR",
    "amount": Decimal(1_190),
    "external_ref": "order-1",
    "tax_category": "S",
    "tax_rate": 1900,
    "applies_to": None,
    "reverses": None,
}


def test_what_the_application_records_gets_its_sign_from_its_kind_and_is_there_once(database: Database) -> None:
    with database.transaction() as session:
        an_account(session, ref="acme")
    ids = set()
    for _ in range(2):
        for number, kind in enumerate(EntryKind):
            values = RIGHT | {"kind": kind, "external_ref": f"order-{number}"}
            if kind is not EntryKind.CHARGE:
                values |= {"tax_category": "O", "tax_rate": 0}
            with database.transaction() as session:
                ids.add(session.execute(text(RECORD), values).scalar_one())
    with database.transaction() as session:
        entries = session.scalars(select(LedgerEntry).order_by(LedgerEntry.sequence)).all()
    assert {entry.id for entry in entries} == ids
    assert [(entry.kind, entry.amount) for entry in entries] == [
        ("charge", 1_190),
        ("payment", -1_190),
        ("credit", -1_190),
        ("refund", 1_190),
        ("chargeback", 1_190),
    ]
    assert (entries[0].tax_category, entries[0].tax_rate) == ("S", 1_900)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"account": "nobody"}, "there is no account of that ref"),
        ({"kind": "gift"}, '"gift" is not a kind of ledger entry'),
        ({"kind": None}, '"NULL" is not a kind of ledger entry'),
        ({"currency": "ABC"}, '"ABC" is not a currency of ISO 4217; use a code such as EUR'),
        ({"currency": None}, '"<NULL>" is not a currency of ISO 4217; use a code such as EUR'),
        ({"amount": Decimal("11.9")}, "the amount 11.9 is not a positive whole number of minor units"),
        ({"amount": Decimal(-5)}, "the amount -5 is not a positive whole number of minor units"),
        ({"amount": Decimal(0)}, "the amount 0 is not a positive whole number of minor units"),
        ({"amount": Decimal("NaN")}, "the amount NaN is not a positive whole number of minor units"),
        ({"amount": Decimal(10) ** 30}, f"the amount 1{'0' * 30} is not a positive whole number of minor units"),
        ({"amount": None}, "the amount NULL is not a positive whole number of minor units"),
        ({"external_ref": "order-0"}, "the external_ref of this charge was used for another entry"),
        ({"kind": "payment", "applies_to": "INV-000001"}, "the account has no invoice of that number"),
        ({"kind": "refund", "reverses": "pay-1"}, "the account has no payment of that external_ref"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_a_sentence_and_leaves_nothing(
    database: Database, wrong: dict[str, Any], sentence: str
) -> None:
    with database.transaction() as session:
        an_entry(session, an_account(session, ref="acme"), 5, external_ref="order-0")
    with pytest.raises(DBAPIError) as caught, database.transaction() as session:
        session.execute(text(RECORD), RIGHT | wrong)
    assert caught.value.orig.diag.message_primary == sentence  # type: ignore[union-attr]
    assert caught.value.orig.sqlstate[:2] in {"22", "23"}  # type: ignore[union-attr]
    with database.transaction() as session:
        assert session.scalars(select(LedgerEntry.amount)).all() == [5]
