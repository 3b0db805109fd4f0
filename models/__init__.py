"""What do we know? One aggregate a file; importing this package registers every table on `Base.metadata`."""

from models.account import Account, AccountStatus, StatementForm
from models.account_key import AccountKey, KeyPurpose
from models.base import SCHEMA, Base
from models.certificate import Certificate, CertificateCopy, CertificateKind, ErasureReplay
from models.contact import Contact
from models.contract import Contract
from models.counter import Counter
from models.currency import Currency
from models.data_map import DataMap, own_map
from models.delivery_event import DeliveryEvent, DeliveryKind
from models.detail_change import DetailChange
from models.disclosure import Disclosure, DisclosureEvent
from models.email_message import EmailMessage, EmailState
from models.export_link import ExportLink
from models.held_session import HeldSession
from models.held_session_key import HeldSessionKey
from models.invoice import Invoice, InvoiceDocument, InvoiceKind, InvoiceLine, InvoiceSeries, InvoiceTax
from models.job_request import JobRequest, Quarantined, RequestKind
from models.ledger import EntryKind, LedgerEntry
from models.legal_hold import LegalHold
from models.letterhead import Letterhead
from models.money import Money
from models.open_item import Allocation, OpenItem, Side
from models.payment import AttemptOutcome, AttemptState, CollectionAttempt, DeclineReason, MethodKind, PaymentMethod
from models.payment_event import PaymentEvent
from models.purge import Method, PurgeStore, StoreKind
from models.reconciliation import Reconciliation
from models.reminder import HoldKind, HoldOutcome, LetterKind, Reminder, ReminderCopy, ReminderHold, ReminderLetter
from models.reminder_policy import ReminderLevel, ReminderPolicy, ReminderStep
from models.retention import Retention
from models.security_audit import SecurityAudit, SecurityFinding
from models.session import Session
from models.session_sweep import SessionSweep
from models.statement import Statement
from models.submission import FileState, SubmittedFile, SubmittedRecord
from models.suppression import Suppression, SuppressionReason
from models.tax import TaxCategory
from models.termination import DeliveredBy, Stage, Step, Termination, TerminationStep
from models.usage_event import UsageEvent
from models.work import Work, WorkState
from models.work_control import WorkControl

__all__ = [
    "SCHEMA",
    "Account",
    "AccountKey",
    "AccountStatus",
    "Allocation",
    "AttemptOutcome",
    "AttemptState",
    "Base",
    "Certificate",
    "CertificateCopy",
    "CertificateKind",
    "CollectionAttempt",
    "Contact",
    "Contract",
    "Counter",
    "Currency",
    "DataMap",
    "DeclineReason",
    "DeliveredBy",
    "DeliveryEvent",
    "DeliveryKind",
    "DetailChange",
    "Disclosure",
    "DisclosureEvent",
    "EmailMessage",
    "EmailState",
    "EntryKind",
    "ErasureReplay",
    "ExportLink",
    "FileState",
    "HeldSession",
    "HeldSessionKey",
    "HoldKind",
    "HoldOutcome",
    "Invoice",
    "InvoiceDocument",
    "InvoiceKind",
    "InvoiceLine",
    "InvoiceSeries",
    "InvoiceTax",
    "JobRequest",
    "KeyPurpose",
    "LedgerEntry",
    "LegalHold",
    "LetterKind",
    "Letterhead",
    "Method",
    "MethodKind",
    "Money",
    "OpenItem",
    "PaymentEvent",
    "PaymentMethod",
    "PurgeStore",
    "Quarantined",
    "Reconciliation",
    "Reminder",
    "ReminderCopy",
    "ReminderHold",
    "ReminderLetter",
    "ReminderLevel",
    "ReminderPolicy",
    "ReminderStep",
    "RequestKind",
    "Retention",
    "SecurityAudit",
    "SecurityFinding",
    "Session",
    "SessionSweep",
    "Side",
    "Stage",
    "Statement",
    "StatementForm",
    "Step",
    "StoreKind",
    "SubmittedFile",
    "SubmittedRecord",
    "Suppression",
    "SuppressionReason",
    "TaxCategory",
    "Termination",
    "TerminationStep",
    "UsageEvent",
    "Work",
    "WorkControl",
    "WorkState",
]


def data_map() -> DataMap:
    """The map of Tenure's own tables (T5)."""
    return own_map(Base)
