"""What many write: a Celery task for each statement, an ORM session, WeasyPrint, an S3 client, a mail row, a commit."""

from __future__ import annotations

import os
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import boto3
import jinja2
from celery import Celery
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session
from weasyprint import HTML

from models.base.unit_of_work import sqlalchemy_url
from models.billing.ledger import LedgerEntry
from models.billing.statement import Statement
from models.customers.contact import Contact
from models.mail.email_message import EmailMessage

QUEUE = "weasyprint"
PAGE = """
<!DOCTYPE html><html lang="de"><head><meta charset="utf-8"><style>
@page { size: A4; margin: 20mm; @bottom-right { content: counter(page) " / " counter(pages); font-size: 7pt } }
body { font: 9.5pt sans-serif } h1 { font-size: 20pt } table { width: 100%; border-collapse: collapse }
td, th { border-bottom: 0.5pt solid #ddd; padding: 4pt; text-align: left } .figure { text-align: right }
</style><title>Kontoauszug</title></head><body>
<p>{{ statement.account_name }}<br>{{ statement.address | join("<br>" | safe) }}</p>
<h1>Kontoauszug</h1><p>{{ statement.period_start }} – {{ statement.period_end }}</p>
<table><thead><tr><th>Datum</th><th>Beschreibung</th><th class="figure">Betrag</th></tr></thead><tbody>
{% for line in lines %}<tr><td>{{ line.occurred_at.date() }}</td><td>{{ line.description }}</td>
<td class="figure">{{ "%.2f" | format(line.amount / 100) }}</td></tr>{% endfor %}
<tr><td></td><td><b>Endsaldo</b></td><td class="figure"><b>{{ "%.2f" | format(statement.closing / 100) }}</b></td></tr>
</tbody></table></body></html>"""

app = Celery("weasyprint", broker=os.environ.get("TENURE_BROKER_URL"))
app.conf.update(task_default_queue=QUEUE, task_ignore_result=True, worker_prefetch_multiplier=4)


@cache
def _kept() -> tuple[Any, Any, jinja2.Template]:
    """An engine, an S3 client and a template for the life of a process: the peer is written with care."""
    engine = create_engine(sqlalchemy_url(os.environ["TENURE_DATABASE_URL"]))
    client = boto3.client(
        "s3",
        endpoint_url=os.environ["TENURE_S3_ENDPOINT"],
        region_name=os.environ["TENURE_S3_REGION"],
        aws_access_key_id=os.environ["TENURE_S3_ACCESS_KEY"],
        aws_secret_access_key=os.environ["TENURE_S3_SECRET_KEY"],
    )
    return engine, client, jinja2.Environment(autoescape=True).from_string(PAGE)


@app.task(name="weasyprint.statement")
def statement(which: str) -> None:
    engine, client, template = _kept()
    with Session(engine) as session, session.begin():
        row = session.get_one(Statement, UUID(which))
        lines = session.scalars(
            select(LedgerEntry).where(LedgerEntry.account_id == row.account_id).order_by(LedgerEntry.sequence)
        ).all()
        contact = session.scalars(select(Contact).where(Contact.account_id == row.account_id)).one()
        body = HTML(string=template.render(statement=row, lines=lines)).write_pdf()
        key = f"peer/{row.id}.pdf"
        client.put_object(Bucket=os.environ["TENURE_S3_BUCKET"], Key=key, Body=body, ContentType="application/pdf")
        row.document_key, row.document_bytes = key, len(body)
        session.add(
            EmailMessage(
                account_id=row.account_id,
                contact_id=contact.id,
                message="statement-ready",
                to_address=contact.email,
                context={},
                attachments=[],
                dedupe_key=f"peer:{row.id}",
                message_id=f"{uuid4()}@peer.example",
            )
        )
