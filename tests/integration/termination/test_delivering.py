"""From the freeze to the delivery, and no purge without it (T2, T7, T11, T18)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.customers.account_key import KeyPurpose
from models.data_map.map import AccountKeys
from models.termination.termination import Step, Termination, TerminationStep
from models.work import row as work
from tasks.crypto import keyring
from tasks.crypto.age import Sealed, SealedReader
from tasks.crypto.keyring import Keyring
from tasks.engine.drain import drain
from tasks.failures import Permanent, Unavailable
from tasks.mail import send as emails
from tasks.ports.context import Ports
from tasks.ports.durations import Terms
from tasks.termination.advancing import ADVANCE, EXPORT, PURGE
from tasks.termination.cancelling import cancel
from tasks.termination.exporting import opened
from tasks.termination.links import named_by
from tasks.termination.reissuing import Reissued, find, reissue
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.raw_objects import put_raw
from tests.support.rows.terminating import a_termination, stage, steps
from workers.adapters.objects.s3 import S3ObjectStore

TERMS = Terms(window=timedelta(days=30), reminders=(timedelta(days=14), timedelta(days=3)))


@dataclass
class Leaving:
    """A customer with two contacts whose contract is over; nobody has done anything about it yet."""

    ports: Ports
    database: Database
    account: AccountKeys
    id: UUID

    def go_on(self, ports: Ports | None = None) -> None:
        """Do what is due of export and delivery, and send what is to be sent."""
        chosen = ports or self.ports
        busy = True
        while busy:
            busy = sum(drain(job, chosen)["steps"] for job in (ADVANCE, EXPORT)) > 0
        drain(emails.SEND_URGENT, chosen)

    def purge(self) -> None:
        """The record was fetched: all is purged, verified and certified."""
        self.do("UPDATE tenure.terminations SET downloaded_at = now()")
        while self.row().stage != "certified":
            self.due()
            assert drain(ADVANCE, self.ports)["steps"] + drain(PURGE, self.ports)["steps"] > 0

    def later(self, days: float) -> None:
        """As if all had happened so many days ago: what is due by then, is due."""
        moved = {"days": timedelta(days=days), "id": self.id}
        with self.database.connection() as connection:
            connection.execute(
                text("UPDATE tenure.terminations SET available_until = available_until - :days WHERE id = :id"), moved
            )
            connection.execute(
                text("UPDATE tenure.termination_steps SET due_at = due_at - :days WHERE state = 'pending'"), moved
            )

    def sealed(self) -> Sealed:
        with self.database.transaction() as session:
            return opened(self.ports, session.get_one(Termination, self.id))

    def row(self) -> Any:
        return self.ask("SELECT * FROM tenure.terminations")[0]

    def ask(self, statement: str) -> list[Any]:
        with self.database.connection() as connection:
            return list(connection.execute(text(statement)))

    def do(self, statement: str) -> None:
        with self.database.connection() as connection:
            connection.execute(text(statement))

    def mails(self, message: str) -> list[Any]:
        return self.ask(f"SELECT * FROM tenure.email_messages WHERE message = '{message}' ORDER BY id")

    def failure(self, step: Step) -> str:
        return self.ask(f"SELECT last_error FROM tenure.termination_steps WHERE step = '{step}'")[0].last_error

    def retry(self, step: Step) -> None:
        failed = [row.id for row in self.ask(f"SELECT id FROM tenure.termination_steps WHERE step = '{step}'")]
        with self.database.connection() as connection:
            assert work.retry(connection, TerminationStep, failed)

    def due(self) -> None:
        self.do("UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'")

    @property
    def key_row(self) -> Any:
        return self.ask("SELECT * FROM tenure.account_keys")[0]

    def rows_left(self) -> int:
        return self.ask("SELECT (SELECT count(*) FROM tenure.contacts) AS n")[0].n


@pytest.fixture
def leaving(database: Database, ports: Ports) -> Leaving:
    with database.transaction() as session:
        account = an_account(session, ref="acme", name="Acme & Söhne")
        a_contact(session, account, name="Ada", email="ada@acme.example", language="de")
        a_contact(session, account, name="Said", email="said@acme.example", language="ar", time_zone="Asia/Dubai")
        other = an_account(session, ref="other")
        a_contact(session, other)
        termination = a_termination(session, account.id, Step.BEGIN).id
    return Leaving(replace(ports, terms=TERMS), database, AccountKeys(account.id, account.ref), termination)


def test_the_record_is_made_and_each_contact_gets_a_link(leaving: Leaving) -> None:
    leaving.go_on()
    assert steps(leaving.database) == {
        **dict.fromkeys(("begin", "freeze", "export", "notify"), "done"),
        **dict.fromkeys(("retire_archive", "remind 1", "remind 2", "deliver"), "pending"),
    }
    row = leaving.row()
    assert (row.stage, row.exported_rows["main"]["tenure.contacts"]) == ("sealed", 2)
    assert row.exported_rows["main"]["tenure.sessions"] == 0, "empty tables are in it, too"
    assert [each.to_address for each in leaving.mails("export-ready")] == ["ada@acme.example", "said@acme.example"]
    assert {each.state for each in leaving.mails("export-ready")} == {"done"}
    stored = leaving.ports.objects.get(row.archive_key)
    assert (sha256(stored).digest(), len(stored)) == (row.archive_sha256, row.archive_size)
    with zipfile.ZipFile(io.BufferedReader(SealedReader(leaving.sealed()))) as archive:
        readme = archive.read("README.txt").decode("utf-8-sig")
        assert b"ada@acme.example" in archive.read("tables/tenure.contacts.csv")
    assert "Dieses Archiv" in readme, "in the language of the first contact"
    assert "Acme & Söhne" in readme


def test_of_a_link_only_a_hash_is_kept(leaving: Leaving) -> None:
    leaving.go_on()
    links = leaving.ask("SELECT * FROM tenure.export_links ORDER BY language")
    pages = {each.recipient["language"]: each.context["page"] for each in leaving.mails("export-ready")}
    assert [(each.language, each.time_zone) for each in links] == [("ar", "Asia/Dubai"), ("de", "Europe/Berlin")]
    for link in links:
        folder, secret = pages[link.language].rsplit("/", 1)
        assert (folder, named_by(secret)) == ("/exports", link.secret_sha256)
    assert named_by("x") is None
    assert named_by(secret + "A") is None
    assert named_by("ä" * 43) is None
    dumped = leaving.ask("SELECT t::text AS all FROM tenure.termination_steps AS t")
    assert not any(secret in each.all for each in dumped)


def test_what_was_downloaded_is_delivered_and_nobody_is_reminded(leaving: Leaving) -> None:
    leaving.go_on()
    leaving.do("UPDATE tenure.terminations SET downloaded_at = now()")
    leaving.due()
    leaving.go_on()
    row = leaving.row()
    assert (row.stage, row.delivered_by) == ("delivered", "download")
    assert steps(leaving.database)["purge"] == "pending"
    assert leaving.mails("export-reminder") == []


def test_a_reminder_that_waits_when_the_record_is_fetched_does_not_leave(leaving: Leaving) -> None:
    leaving.go_on()
    leaving.later(20)
    drain(ADVANCE, leaving.ports)
    leaving.do("UPDATE tenure.terminations SET downloaded_at = now()")
    drain(emails.SEND_URGENT, leaving.ports)
    assert {each.state for each in leaving.mails("export-reminder")} == {"cancelled"}


def test_a_notice_with_all_reminders_delivers_when_the_window_is_over(leaving: Leaving) -> None:
    leaving.go_on()
    leaving.later(17)
    leaving.go_on()
    leaving.later(11)
    leaving.go_on()
    reminders = leaving.mails("export-reminder")
    assert [each.context["last"] for each in reminders] == [False, False, True, True]
    assert len({each.context["page"] for each in [*reminders, *leaving.mails("export-ready")]}) == 6
    assert leaving.row().stage == "sealed"
    assert "can be fetched until" in leaving.failure(Step.DELIVER)
    assert steps(leaving.database)["deliver"] == "pending"
    leaving.later(3)
    leaving.go_on()
    assert (leaving.row().stage, leaving.row().delivered_by) == ("delivered", "notice")
    assert steps(leaving.database) | {"retire_archive": "pending", "purge": "pending"} == steps(leaving.database)


def test_however_short_the_window_somebody_is_reminded(leaving: Leaving) -> None:
    leaving.ports = replace(leaving.ports, terms=Terms(window=timedelta(days=2)))
    leaving.go_on()
    assert "remind 1" in steps(leaving.database)
    leaving.later(2)
    # The window is over, and the reminder has not even left.
    drain(ADVANCE, leaving.ports)
    assert leaving.row().stage == "sealed"


class Away:
    """A mail server that does not answer, or takes nothing."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    def send(self, *_: Any, **__: Any) -> Any:
        raise self._failure

    def close(self) -> None:
        pass


def test_while_no_mail_leaves_nothing_is_delivered(leaving: Leaving) -> None:
    """T2: mail refuses."""
    away = replace(leaving.ports, mailer=Away(Unavailable("The mail server does not answer.")))
    leaving.go_on(away)
    for _ in range(3):
        leaving.later(15)
        leaving.go_on(away)
    assert (leaving.row().stage, leaving.rows_left()) == ("sealed", 3)
    assert leaving.failure(Step.DELIVER) == "No mail server has accepted the notice yet that the record is ready."
    leaving.due()
    leaving.do("UPDATE tenure.email_messages SET due_at = now() WHERE state = 'pending'")
    leaving.go_on()
    leaving.due()
    leaving.go_on()
    assert leaving.row().stage == "delivered", "when mail leaves again, all of it was sent and the window is over"


def test_a_notice_that_nobody_accepts_wants_a_person(leaving: Leaving) -> None:
    """T2: mail refuses for good."""
    while "notify" not in {name for name, state in steps(leaving.database).items() if state == "done"}:
        drain(ADVANCE, leaving.ports)
        drain(EXPORT, leaving.ports)
    leaving.do("UPDATE tenure.email_messages SET state = 'failed', finished_at = now()")
    leaving.later(1)
    leaving.go_on()
    assert stage(leaving.database) == ("failed", "sealed")
    assert "`tenure export reissue REF --to ADDRESS`" in leaving.failure(Step.DELIVER)
    assert leaving.rows_left() == 3


class Refusing:
    """The object store, which refuses to store or to give."""

    def __init__(self, store: S3ObjectStore, *refused: str) -> None:
        self._store, self._refused = store, refused

    def __getattr__(self, name: str) -> Any:
        if name in self._refused:

            def refuse(*_: Any, **__: Any) -> Any:
                raise Unavailable("The object store refused to store an object (SlowDown).")

            return refuse
        return getattr(self._store, name)


@pytest.mark.parametrize("refused", ["upload", "read"])
def test_while_the_object_store_refuses_nothing_is_sealed(leaving: Leaving, refused: str) -> None:
    """T2: storage refuses."""
    broken = replace(leaving.ports, objects=Refusing(leaving.ports.objects, refused))  # type: ignore[arg-type]
    leaving.go_on(broken)
    assert (stage(leaving.database), leaving.rows_left()) == (("exporting", None), 3)
    assert leaving.failure(Step.EXPORT) == "The object store refused to store an object (SlowDown)."
    assert leaving.mails("export-ready") == []
    leaving.due()
    leaving.go_on()
    assert leaving.row().stage == "sealed"
    stored = [each.key for each in leaving.ports.objects.list(f"archives/{leaving.id}/")]
    assert stored == [leaving.row().archive_key], "what other runs left is gone"


def test_without_a_key_nothing_is_exported(leaving: Leaving) -> None:
    """T2, T17: the key is missing."""
    leaving.go_on(replace(leaving.ports, keyring=Keyring()))
    assert (stage(leaving.database), leaving.rows_left()) == (("failed", "exporting"), 3)
    assert "TENURE_KEY_ENCRYPTION_KEYS is not set" in leaving.failure(Step.EXPORT)
    assert list(leaving.ports.objects.list(f"archives/{leaving.id}/")) == []
    leaving.retry(Step.EXPORT)
    leaving.go_on()
    assert leaving.row().stage == "sealed"


def test_a_key_that_was_destroyed_delivers_nothing(leaving: Leaving) -> None:
    """T2: when the window is over, the record must still be one that could be opened."""
    leaving.go_on()
    leaving.later(28)
    leaving.go_on()
    with leaving.database.transaction() as session:
        assert keyring.destroy(session, leaving.account.id, KeyPurpose.EXPORT, leaving.id)
    leaving.later(3)
    leaving.go_on()
    assert (stage(leaving.database), leaving.rows_left()) == (("failed", "sealed"), 3)
    assert leaving.failure(Step.DELIVER).startswith("The key was destroyed")
    assert "purge" not in steps(leaving.database)


def test_a_record_that_is_lost_is_announced_to_nobody(leaving: Leaving) -> None:
    while leaving.row().stage != "sealed":
        drain(ADVANCE, leaving.ports)
        drain(EXPORT, leaving.ports)
    leaving.ports.objects.erase(leaving.row().archive_key)
    leaving.go_on()
    assert stage(leaving.database) == ("failed", "sealed")
    assert leaving.mails("export-ready") == []


def test_a_table_that_the_map_does_not_know_stops_the_export(leaving: Leaving) -> None:
    """T7."""
    leaving.do("CREATE TABLE public.rogue (customer text)")
    leaving.go_on()
    assert stage(leaving.database) == ("failed", "frozen")
    assert leaving.failure(Step.EXPORT).startswith("The export does not begin: public.rogue (customer) is not in the")
    leaving.do("DROP TABLE public.rogue")
    leaving.retry(Step.EXPORT)
    leaving.go_on()
    assert leaving.row().stage == "sealed"


def test_an_export_that_was_overtaken_leaves_no_object(leaving: Leaving) -> None:
    class Overtaken(Refusing):
        def upload(self, key: str, parts: Iterator[bytes], **options: Any) -> None:
            leaving.do("UPDATE tenure.termination_steps SET claim_token = gen_random_uuid()")
            self._store.upload(key, parts, **options)

    leaving.go_on(replace(leaving.ports, objects=Overtaken(leaving.ports.objects)))  # type: ignore[arg-type]
    assert stage(leaving.database) == ("exporting", None)
    assert list(leaving.ports.objects.list(f"archives/{leaving.id}/")) == []


def test_after_the_purge_the_record_stays_until_its_window_ends_and_then_goes_for_good(leaving: Leaving) -> None:
    """T18, T25: and that is certified, too."""
    leaving.go_on()
    leaving.purge()
    done = steps(leaving.database)
    assert (leaving.row().stage, done["forget"], done["retire_archive"]) == ("certified", "pending", "pending")
    assert leaving.rows_left() == 1
    leaving.sealed()
    key = leaving.row().archive_key
    leaving.later(31)
    leaving.go_on()
    assert steps(leaving.database)["retire_archive"] == "done"
    assert list(leaving.ports.objects.versions(f"archives/{leaving.id}/")) == []
    assert leaving.ask("SELECT * FROM tenure.export_links") == []
    assert (leaving.key_row.wrapped_secret, leaving.row().archive_key) == (None, key)
    assert leaving.row().archive_purged_at is not None
    kinds = [row.kind for row in leaving.ask("SELECT kind FROM tenure.certificates ORDER BY number")]
    assert kinds[-2:] == ["purge", "archive"]


def test_nothing_is_retired_before_the_purge_is_certified(leaving: Leaving) -> None:
    leaving.go_on()
    leaving.later(40)
    drain(ADVANCE, replace(leaving.ports, mailer=Away(Unavailable("It is away."))))
    assert steps(leaving.database)["retire_archive"] == "pending"
    assert leaving.failure(Step.RETIRE_ARCHIVE) == "The record is kept until the purge is certified."
    leaving.sealed()


def test_a_termination_that_is_taken_back_leaves_no_record(leaving: Leaving) -> None:
    leaving.go_on()
    put_raw(leaving.ports.objects, f"archives/{leaving.id}/left.zip.age", b"of another run")
    with leaving.database.transaction() as session:
        cancel(session, leaving.id)
    leaving.go_on()
    assert steps(leaving.database)["retire_archive"] == "done"
    assert list(leaving.ports.objects.list(f"archives/{leaving.id}/")) == []
    assert leaving.ask("SELECT * FROM tenure.export_links") == []
    assert leaving.ask("SELECT number FROM tenure.certificates") == []
    assert leaving.row().archive_purged_at is not None


def test_the_last_addresses_are_forgotten_when_the_last_message_was_accepted(leaving: Leaving) -> None:
    leaving.go_on()
    leaving.purge()
    completed = leaving.mails("purge-completed")
    assert [each.to_address for each in completed] == ["ada@acme.example", "said@acme.example"]
    certificate = leaving.ask("SELECT sha256 FROM tenure.certificates WHERE kind = 'purge'")[0]
    assert {each.context["sha256"] for each in completed} == {bytes(certificate.sha256).hex()}
    assert {each.context["account_ref"] for each in completed} == {"acme"}
    leaving.due()
    drain(ADVANCE, leaving.ports)
    assert leaving.row().correspondence is not None
    assert "addresses are kept for a week" in leaving.failure(Step.FORGET)
    leaving.do("UPDATE tenure.email_messages SET state = 'done', finished_at = now() WHERE state = 'pending'")
    leaving.due()
    drain(ADVANCE, leaving.ports)
    assert leaving.row().correspondence is None
    assert leaving.ask("SELECT * FROM tenure.email_messages") == []


def test_the_last_addresses_are_forgotten_after_a_week_in_any_case(leaving: Leaving) -> None:
    leaving.go_on()
    leaving.purge()
    assert [each.state for each in leaving.mails("purge-completed")] == ["pending", "pending"]
    leaving.do("UPDATE tenure.terminations SET certified_at = certified_at - interval '8 days'")
    leaving.due()
    drain(ADVANCE, leaving.ports)
    assert leaving.row().correspondence is None
    assert leaving.ask("SELECT * FROM tenure.email_messages") == []


def reissued(leaving: Leaving, **how: Any) -> Reissued:
    with leaving.database.transaction() as session:
        return reissue(session, leaving.ports, find(session, "acme"), **how)


def test_a_reissue_ends_the_old_links_and_needs_no_export(leaving: Leaving) -> None:
    leaving.go_on()
    leaving.do("UPDATE tenure.terminations SET downloaded_at = now()")
    leaving.due()
    leaving.go_on()
    key, until = leaving.row().archive_key, leaving.row().available_until
    before = {each.secret_sha256 for each in leaving.ask("SELECT * FROM tenure.export_links")}
    assert reissued(leaving).told == 2
    leaving.go_on()
    after = {each.secret_sha256 for each in leaving.ask("SELECT * FROM tenure.export_links")}
    assert (len(after), before & after) == (2, set())
    assert [each.state for each in leaving.mails("export-ready")] == ["done"] * 4
    assert (leaving.row().archive_key, leaving.row().available_until) == (key, until)


def test_a_link_can_be_handed_over_by_a_person(leaving: Leaving) -> None:
    leaving.go_on()
    page = reissued(leaving, by_hand=True).page
    assert page is not None
    (link,) = leaving.ask("SELECT * FROM tenure.export_links")
    assert named_by(page.rsplit("/", 1)[1]) == link.secret_sha256
    assert len(leaving.mails("export-ready")) == 2, "nobody is written to"


def test_a_reissue_mends_a_notice_that_nobody_accepted(leaving: Leaving) -> None:
    """A new window, with as many reminders; then it counts as delivered."""
    leaving.go_on()
    leaving.do("UPDATE tenure.email_messages SET state = 'failed', committing_at = NULL")
    leaving.later(1)
    leaving.go_on()
    assert stage(leaving.database) == ("failed", "sealed")
    until = reissued(leaving, to="somebody@else.example").available_until
    assert stage(leaving.database) == ("sealed", None)
    assert timedelta(days=29) < until - leaving.ask("SELECT now() AS at")[0].at
    assert steps(leaving.database)["remind 4"] == "pending"
    leaving.go_on()
    assert leaving.mails("export-ready")[-1].state == "done"
    for days in (17, 11, 3):
        leaving.later(days)
        leaving.go_on()
    assert (leaving.row().stage, leaving.row().delivered_by) == ("delivered", "notice")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE tenure.terminations SET archive_purged_at = now()", "it has no record that could be fetched"),
        ("UPDATE tenure.terminations SET stage = 'delivered', delivered_at = now(), delivered_by = 'notice', "
         "available_until = now()", "The time in which the record could be fetched is over."),
        ("UPDATE tenure.terminations SET correspondence = correspondence - 'contacts'", "Nobody is left to write to"),
    ],
)  # fmt: skip
def test_where_there_is_no_record_none_is_reissued(leaving: Leaving, change: str, said: str) -> None:
    leaving.go_on()
    leaving.do(change)
    links = leaving.ask("SELECT * FROM tenure.export_links ORDER BY id")
    with pytest.raises(Permanent, match=said):
        reissued(leaving)
    assert leaving.ask("SELECT * FROM tenure.export_links ORDER BY id") == links
    with pytest.raises(Permanent, match="No termination is under way"), leaving.database.transaction() as session:
        find(session, "other")


def test_the_command_prints_a_link(leaving: Leaving, tenure: Run) -> None:
    leaving.go_on()

    told = tenure("export", "reissue", "acme", "--print")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("https://")
    assert (
        named_by(told.stdout.strip().rsplit("/", 1)[1])
        == leaving.ask("SELECT * FROM tenure.export_links")[0].secret_sha256
    )
    assert "queued to 2" in tenure("export", "reissue", str(leaving.id)).stdout
    for wrong, code in ((["nobody"], 1), (["acme", "--to", "x"], 2), (["acme", "--to", "a@b.example", "--print"], 2)):
        said = tenure("export", "reissue", *wrong)
        assert (said.returncode, "Traceback" in said.stderr) == (code, False)
