"""What one can ask Tenure for: one typed class a kind, and the call for a web tier written in Python.

    from tasks.client.requests import StatementsSend, submit

    with Session(engine) as session, session.begin():
        ...                                              # the application's own changes
        submit(session, StatementsSend(account="acme"), dedupe_key="order-4711")

The request is a row in the caller's transaction: it is there if and only if that commits. This module imports neither
Celery nor the rest of Tenure's machinery. From other languages: `SELECT tenure.request(kind, args, dedupe_key)`.
"""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated, Any, ClassVar
from uuid import UUID

import msgspec
from msgspec import Meta
from msgspec import inspect as shape
from sqlalchemy import Connection, or_, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.unit_of_work import refusal
from models.work.request import RequestKind
from tasks.storage.text import UNSTORABLE

#: The application's own key of an active account.
AccountRef = Annotated[str, Meta(min_length=1, max_length=200, extra={"type": "account"})]


#: The application's own key of an account, frozen or not, of which a termination is under way.
TerminatedRef = Annotated[str, Meta(min_length=1, max_length=200, extra={"type": "termination"})]
#: Days.
Days = Annotated[int, Meta(ge=0, le=3650)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all kinds. Name, fields and types of a kind are public API; a change of meaning is a new version."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    #: The ways in by which it may come. A message can be written by whoever knows the broker's password: what ends a
    #: contract or gives money back does not come by one.
    ways: ClassVar[tuple[str, ...]] = ("sql", "queue", "operator")


class StatementsSend(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send the statements of the account's last closed period: made now where the clock has not yet, or once more."""

    kind = "statements.send"
    account: AccountRef


class InvoicesIssue(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Invoice at once what the account was charged and is on no invoice yet, without waiting for its billing day."""

    kind = "invoices.issue"
    account: AccountRef


class InvoicesSend(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mail an invoice or credit note once more, by its number."""

    kind = "invoices.send"
    account: AccountRef
    invoice: str


class InvoicesVoid(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take back all that is left of an invoice by a credit note, and mail that."""

    kind = "invoices.void"
    ways = ("sql", "operator")
    account: AccountRef
    invoice: str


class SessionsRevoke(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sign the account's users out everywhere, and tell its contacts (P9, P3.1e)."""

    kind = "sessions.revoke"
    account: AccountRef


class EmailsSendAccountSetUp(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Welcome the account's contacts; once each, however often it is asked for (P3.1e)."""

    kind = "emails.send_account_set_up"
    account: AccountRef


class EmailsRecordEvent(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Record what a mail provider told of a message; `tenure.record_mail_event` makes it of SES or SNS JSON (E11)."""

    kind = "emails.record_event"
    #: The row's id (the tag `tenure-message`), its Message-ID, or the provider's own name for it.
    message: str
    #: One of `models.mail.delivery_event.DeliveryKind`.
    event: str
    #: ISO 8601, with a zone.
    occurred_at: str
    #: The provider's class of it, never free text.
    detail: str | None = None


class EmailsUnsubscribe(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send the contact who got this message no more of what one can do without (RFC 8058)."""

    kind = "emails.unsubscribe"
    message: UUID


class DetailsConfirmChange(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Confirm a change of details to those whom it concerns; asked for by the change itself (P8.1)."""

    kind = "details.confirm_change"
    account: AccountRef
    change: UUID


class PaymentsRecordEvent(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look at the payment that an event of the provider is about (B22). By the event's id alone, such as `evt_…`.

    With body and signature, which hold personal data: `SELECT tenure.record_payment_event(body, signature)`.
    """

    kind = "payments.record_event"
    event: str


class RemindersPause(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pause reminders of one invoice, by its number, or of the account if `invoice` is None (B17).

    `until` is the last day of the pause. Without it, the pause lasts until `reminders.resume`.
    """

    kind = "reminders.pause"
    account: AccountRef
    invoice: str | None = None
    until: date | None = None


class RemindersPromise(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Record the customer's promise to pay an invoice, or all that is open, by a day: no reminders until then (B17)."""

    kind = "reminders.promise"
    account: AccountRef
    invoice: str | None = None
    until: date


class RemindersDispute(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Record that the customer disputes an invoice, or lines of it (`1,3`): that part is not reminded of.

    The dispute lasts until `reminders.resume`.
    """

    kind = "reminders.dispute"
    account: AccountRef
    invoice: str
    lines: str | None = None


class RemindersResume(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End a pause, promise or dispute early (B17). Reminders continue with the next plan.

    With `invoice`, those of that invoice. Without it, the pause of the account and the promises for all its invoices; a
    dispute is always of an invoice. `only` is `pause`, `promise` or `dispute`; without it, all of them end.
    """

    kind = "reminders.resume"
    account: AccountRef
    invoice: str | None = None
    only: str | None = None


class TerminationsRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End the account's contract: its contacts get a record of all its data, and then everything is deleted (P6.1)."""

    kind = "terminations.request"
    ways = ("sql", "operator")
    account: AccountRef
    #: The contract's last day, in the account's time zone; None is now.
    ends_on: date | None = None
    #: Days after the contract's end until the account is frozen; None is as the settings say.
    grace_days: Days | None = None


class TerminationsCancel(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take the termination of an account back, as long as none of its data was deleted (T3)."""

    kind = "terminations.cancel"
    ways = ("sql", "operator")
    account: TerminatedRef


KINDS: dict[str, type[Request]] = {kind.kind: kind for kind in Request.__subclasses__()}


class RequestRefused(ValueError):
    """A request that cannot be accepted, with the reason in a sentence. Nothing was stored."""


class AccountEnded(RequestRefused):
    """A request for an account whose contract is over: nothing is done for it any more (T10)."""


def submit(session: Session, request: Request, *, dedupe_key: str | None = None) -> UUID:
    """Ask for `request` in the transaction of `session`; returns the request's id.

    The same kind and `dedupe_key` (1 to 200 characters) again return the id of the first. Raises
    `msgspec.ValidationError` for a field of the wrong type and `RequestRefused` for what the database refuses, such as
    an unknown account; the caller's transaction stays usable.
    """
    args = msgspec.to_builtins(request)
    msgspec.convert(args, type(request))
    return ask(session, request.kind, args, dedupe_key=dedupe_key, source="sql")


def ask(session: Session, kind: str, args: dict[str, Any], *, dedupe_key: str | None, source: str) -> UUID:
    """The same from untyped parts. Raises `RequestRefused`."""
    if dedupe_key is not None and UNSTORABLE.search(dedupe_key):
        raise RequestRefused("the dedupe key holds a NUL or half a surrogate pair, which cannot be kept as text.")
    try:
        with session.begin_nested():
            made = session.execute(
                text("SELECT tenure.request(:kind, CAST(:args AS jsonb), :dedupe_key, :source)"),
                {
                    "kind": kind,
                    # Escaped: half a surrogate pair reaches PostgreSQL, which says no.
                    "args": json.dumps(args),
                    "dedupe_key": dedupe_key,
                    "source": source,
                },
            ).scalar_one()
            return UUID(str(made))
    except DBAPIError as error:
        if (reason := refusal(error)) is None:
            raise
        ended = getattr(getattr(error.orig, "diag", None), "constraint_name", None) == "account_ended"
        raise (AccountEnded if ended else RequestRefused)(reason) from None


def fields(kind: type[Request]) -> dict[str, dict[str, Any]]:
    """A kind's fields as `tenure.request` checks them: `{"account": {"type": "account", "required": true}}`."""
    described = shape.type_info(kind)
    if not isinstance(described, shape.StructType):
        raise TypeError(f"{kind.__name__} is not a request: derive it from tasks.requests.Request.")
    return {field.name: {"type": _type(field.type), "required": field.required} for field in described.fields}


def _type(field: shape.Type) -> str:
    if isinstance(field, shape.UnionType):
        return next(_type(member) for member in field.types if not isinstance(member, shape.NoneType))
    if isinstance(field, shape.Metadata):
        return str((field.extra or {}).get("type") or _type(field.type))
    names: dict[type[shape.Type], str] = {
        shape.StrType: "text",
        shape.IntType: "integer",
        shape.BoolType: "boolean",
        shape.DateType: "date",
        shape.UUIDType: "uuid",
    }
    return names[type(field)]


def publish(session: Session | Connection) -> None:
    """Tell the database what may be asked for; `tenure migrate` does so.

    During a deploy, versions publish in any order: an older one leaves kinds that it does not know, and what a newer
    one said of a kind. A version that drops a kind deletes its row by a revision of the schema.
    """
    kinds = [
        {"kind": kind.kind, "version": kind.version, "fields": fields(kind), "ways": list(kind.ways)}
        for kind in KINDS.values()
    ]
    statement = insert(RequestKind).values(kinds)
    said = ("version", "fields", "ways")
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["kind"],
            set_={name: statement.excluded[name] for name in said},
            where=(RequestKind.version <= statement.excluded.version)
            & or_(*(getattr(RequestKind, name).is_distinct_from(statement.excluded[name]) for name in said)),
        )
    )
