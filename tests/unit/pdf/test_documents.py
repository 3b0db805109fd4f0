"""The statement's PDF: its figures, its bytes, and names that try to break it (B2, B3, B6)."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import unicodedata
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_templates.catalogue.invoices import InvoiceCredited, InvoiceIssued, Tax
from email_templates.catalogue.statements import StatementReady
from email_templates.figures.invoice import Buyer, DocumentKind, InvoiceDocument, InvoiceLine, InvoiceTax
from email_templates.figures.statement import Ageing, Line, OpenItem, StatementDocument, age
from email_templates.language.company import Company
from email_templates.language.reader import reader
from email_templates.mail.rendering import render
from email_templates.pdf.glyphs import drawable
from email_templates.pdf.invoice import render_invoice
from email_templates.pdf.statement import render_statement

COMPANY = Company(
    name="Halden Software",
    address=("Storgata 12", "0155 Oslo", "Norway"),
    email="billing@halden.example",
    website="halden.example",
    registration=("NO 987 654 321 MVA",),
)
START = date(2026, 1, 1)


def a_statement(count: int = 4, currency: str = "EUR", **changes: object) -> StatementDocument:
    """Three charges and then a payment, again and again; the third line was recorded late."""
    made = tuple(
        Line(
            date=START + timedelta(days=number % 31),
            description="Payment, thank you" if number % 4 == 3 else f"Team plan, {number + 1} seats",
            amount=-150_000 if number % 4 == 3 else 61_003 + number,
            late=number == 2,
            kind="payment" if number % 4 == 3 else "charge",
        )
        for number in range(count)
    )
    closing = 45_000 + sum(line.amount for line in made)
    overdue = min(30_000, max(closing, 0))
    statement = StatementDocument(
        number="ST-2026-00417",
        account_name="Köhler & Söhne GmbH",
        account_ref="C-10417",
        address=("Luís Gonçalves", "Hauptstraße 5", "1010 Wien"),
        currency=currency,
        period_start=START,
        period_end=date(2026, 1, 31),
        issued_on=date(2026, 2, 1),
        opening=45_000,
        closing=closing,
        lines=made,
        ageing=Ageing(not_due=max(closing, 0) - overdue, days_1_30=overdue, unapplied_credit=max(-closing, 0)),
    )
    return msgspec.structs.replace(statement, **changes)


def pdf(statement: StatementDocument, language: str = "en", company: Company = COMPANY) -> bytes:
    return render_statement(statement, company=company, language=language)


def in_open_items(statement: StatementDocument) -> StatementDocument:
    """The same statement in the other form: an old charge paid in part, and what is not due yet."""
    items = (
        OpenItem(date=START, due_on=date(2026, 1, 16), description="Team plan, 1 seats", amount=61_003, open=30_000),
        OpenItem(date=START, due_on=date(2026, 2, 9), description="", amount=61_005, open=statement.closing - 30_000),
    )
    return msgspec.structs.replace(statement, open_items=items, ageing=age(items, statement.period_end))


#: Two rates, and one line on which the recipient owes the tax.
LINES = tuple(
    InvoiceLine(
        date=date(2026, 1, 5),
        description=what,
        net=net,
        gross=net + net * rate // 10_000,
        tax_rate=rate,
        tax_category=category,
    )
    for what, net, rate, category in [
        ("Team plan, 12 seats", 120_000, 1900, "S"),
        ("Storage, 2 TB", 5_000, 1900, "S"),
        ("Handbook, printed", 2_000, 700, "S"),
        ("Training abroad", 40_000, 0, "AE"),
    ]
)
INVOICE = InvoiceDocument(
    number="INV-2026-00091",
    issued_on=date(2026, 2, 1),
    due_on=date(2026, 2, 15),
    payment_terms=14,
    period_start=START,
    period_end=date(2026, 1, 31),
    currency="EUR",
    buyer=Buyer(
        name="Köhler & Söhne GmbH",
        ref="C-10417",
        address=("Hauptstraße 5", "1010 Wien"),
        country="AT",
        tax_id="ATU12345678",
    ),
    lines=LINES,
    taxes=(
        InvoiceTax(base=125_000, tax=23_750, tax_rate=1900, tax_category="S"),
        InvoiceTax(base=2_000, tax=140, tax_rate=700, tax_category="S"),
        InvoiceTax(base=40_000, tax=0, tax_rate=0, tax_category="AE"),
    ),
    net=167_000,
    tax=23_890,
    total=190_890,
    settled=45_000,
)
CREDIT_NOTE = msgspec.structs.replace(
    INVOICE,
    kind=DocumentKind.CREDIT_NOTE,
    number="CN-2026-0007",
    corrects=INVOICE.number,
    reason="The storage was billed twice.",
    lines=(LINES[1],),
    taxes=(InvoiceTax(base=5_000, tax=950, tax_rate=1900, tax_category="S"),),
    net=5_000,
    tax=950,
    total=5_950,
    settled=0,
)
BANK = msgspec.structs.replace(COMPANY, bank_account=("DNB Bank", "IBAN NO93 8601 1117 947", "BIC DNBANOKK"))


def read(file: bytes) -> str:
    """All text of a PDF; one kind of space, and no invisible characters."""
    pages = pypdf.PdfReader(io.BytesIO(file)).pages
    text = "\n".join(page.extract_text() for page in pages)
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return re.sub(r"[^\S\n]+", " ", text)


def spaced(text: str) -> str:
    return re.sub(r"\s", " ", "".join(c for c in text if unicodedata.category(c) != "Cf"))


@pytest.mark.parametrize("language", ["en", "en-US", "de-AT", "fr", "ar-EG"])
def test_golden(language: str, golden) -> None:
    golden(f"documents/statement.{language}.txt", read(pdf(a_statement(), language)) + "\n")


@pytest.mark.parametrize("language", ["en", "de-AT", "ar-EG"])
@pytest.mark.parametrize("document", [INVOICE, CREDIT_NOTE], ids=lambda document: document.kind)
def test_golden_invoice(language: str, document: InvoiceDocument, golden) -> None:
    shown = read(render_invoice(document, company=BANK, language=language))
    golden(f"documents/{document.kind.replace('_', '-')}.{language}.txt", shown + "\n")


def test_golden_open_items(golden) -> None:
    golden("documents/statement--open-items.de-AT.txt", read(pdf(in_open_items(a_statement()), "de-AT", BANK)) + "\n")


def shows(shown: str, written: str, direction: str) -> bool:
    """Whether a PDF's text has an amount."""
    if direction == "ltr":
        return spaced(written) in shown
    # pypdf turns some runs of Arabic digits around (poppler does not).
    figure = re.sub(r"[^\d٬٫]", "", spaced(written))
    return figure in shown or figure[::-1] in shown


@pytest.mark.parametrize("language", ["en", "de-AT", "fr-CA", "ar-EG"])
@pytest.mark.parametrize("currency", ["EUR", "JPY", "KWD", "USD"])
@pytest.mark.parametrize("original", [INVOICE, CREDIT_NOTE], ids=lambda document: document.kind)
def test_invoice_and_mail_show_the_same_totals(original: InvoiceDocument, language: str, currency: str) -> None:
    document = msgspec.structs.replace(original, currency=currency)
    who = reader(language, "UTC")
    common = {
        "account_name": document.buyer.name,
        "account_ref": document.buyer.ref,
        "currency": currency,
        "issued_on": document.issued_on,
    }
    if document.kind is DocumentKind.INVOICE:
        told: InvoiceIssued | InvoiceCredited = InvoiceIssued(
            invoice_number=document.number,
            due_on=document.due_on,
            net=document.net,
            taxes=tuple(Tax(name="VAT", rate=tax.tax_rate, amount=tax.tax) for tax in document.taxes if tax.tax),
            total=document.total,
            settled=document.settled,
            to_pay=document.total - document.settled,
            **common,
        )
        amounts = [document.net, document.total, document.total - document.settled]
        amounts += [tax.tax for tax in document.taxes if tax.tax]
    else:
        told = InvoiceCredited(
            credit_note_number=document.number,
            invoice_number=str(document.corrects),
            invoice_total=INVOICE.total,
            credited=document.total,
            still_open=INVOICE.total - document.total,
            **common,
        )
        amounts = [document.total]
    mail = render(told, language=language, time_zone="UTC", company=BANK, recipient_name="Ada")
    shown = read(render_invoice(document, company=BANK, language=language))
    for minor in amounts:
        written = who.money(minor, currency)
        assert written in mail.text
        assert written in mail.html
        # Within the PDF's table, figures stand without their currency.
        assert shows(shown, written, who.direction) or shows(shown, who.figure(minor, currency), who.direction)
    assert shows(shown, who.money(document.total, currency), who.direction)


@pytest.mark.parametrize("language", ["en", "de-AT", "fr-CA", "ar-EG"])
@pytest.mark.parametrize("currency", ["EUR", "JPY", "KWD", "USD"])
def test_pdf_mail_and_document_show_the_same_totals(language: str, currency: str) -> None:
    statement = a_statement(currency=currency)
    who = reader(language, "UTC")
    mail = render(
        StatementReady.about(statement), language=language, time_zone="UTC", company=COMPANY, recipient_name="Ada"
    )
    shown = read(pdf(statement, language))
    for minor in (statement.opening, statement.charges, statement.payments, statement.closing, statement.ageing.total):
        written = who.money(minor, currency)
        assert written in mail.text and written in mail.html
        assert shows(shown, written, who.direction)


def test_every_line_and_the_balance_after_it() -> None:
    shown = read(pdf(a_statement()))
    assert "Jan 1, 2026 Team plan, 1 seats 610.03 1,060.03" in shown
    assert "Jan 4, 2026 Payment, thank you -1,500.00 780.12" in shown
    assert "Jan 3, 2026 Team plan, 3 seats (recorded late) 610.05 2,280.12" in shown
    assert "Closing balance 780.12" in shown


@pytest.mark.parametrize(
    ("language", "label"),
    [("de", "(nachträglich erfasst)"), ("fr", "(enregistré tardivement)"), ("pt", "(recorded late)")],
)
def test_late_entries_are_labelled_in_the_readers_language(language: str, label: str) -> None:
    assert read(pdf(a_statement(), language)).count(label) == 1


def test_a_line_without_words_says_its_kind() -> None:
    line = Line(date=START, description="", amount=-100, kind="refund")
    statement = a_statement(0, opening=0, closing=-100, lines=(line,), ageing=Ageing(unapplied_credit=100))
    assert "Erstattung" in read(pdf(statement, "de"))


def test_names_arrive_intact() -> None:
    statement = a_statement(account_name="Łukasz Żółć & Ñandú Ωμέγα Жук", address=("شركة النور للتجارة",))
    shown = read(pdf(statement))
    assert "Łukasz Żółć & Ñandú Ωμέγα Жук" in shown
    assert "Luís Gonçalves" in read(pdf(a_statement(), "ar")) and "Köhler & Söhne" in read(pdf(a_statement(), "ar"))
    # pypdf gives the words of a right-to-left line from left to right.
    assert all(word in shown for word in ["شركة", "النور", "للتجارة"])


HOSTILE = [
    '#eval("1")', "*bold* _it_ `raw`", "@ref <label> = heading", "$x^2$ ~ --- ...", "\\u{41} \\ // /* */", '"', "'",
    "#", "[", "]", "{}", "#include \"x\"", "https://x.example", "- a", "%(page)s %s {0} {{ x }}",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_of_typst_is_text(text: str) -> None:
    line = Line(date=START, description=text, amount=100)
    statement = a_statement(
        0, account_name=text, address=(text,), opening=0, closing=100, lines=(line,), ageing=Ageing(not_due=100),
        number=text,
    )  # fmt: skip
    shown = read(pdf(statement, company=msgspec.structs.replace(COMPANY, address=(text,))))
    assert shown.count(text) >= 5


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), max_size=80), st.sampled_from(["en", "ar"]))
def test_no_text_keeps_a_statement_from_being_set(text: str, language: str) -> None:
    line = Line(date=START, description=text, amount=100)
    statement = a_statement(
        0, account_name=text, address=(text,), opening=0, closing=100, lines=(line,), ageing=Ageing(not_due=100)
    )
    assert pdf(statement, language).startswith(b"%PDF-1.7")


def test_what_no_font_draws_is_replaced_where_it_is_seen() -> None:
    assert drawable("山 ￥ e\u0301 \ue000\u200b", frozenset(map(ord, "¥é \ufffd"))) == "\ufffd ¥ é \ufffd"


@pytest.mark.parametrize(("language", "width"), [("de-AT", 595), ("en", 595), ("en-US", 612), ("fr-CA", 612)])
def test_paper_is_the_readers_own(language: str, width: int) -> None:
    box = pypdf.PdfReader(io.BytesIO(pdf(a_statement(), language))).pages[0].mediabox
    assert round(float(box.width)) == width


@pytest.mark.parametrize(("language", "tag"), [("en", "en"), ("de-AT", "de-AT"), ("ar-EG", "ar-EG"), ("xx", "en")])
def test_a_pdf_tells_its_language_and_is_tagged(language: str, tag: str) -> None:
    file = pypdf.PdfReader(io.BytesIO(pdf(a_statement(), language)))
    assert file.root_object["/Lang"] == tag
    assert file.root_object["/MarkInfo"]["/Marked"]
    assert "pdfaid:part>2<" in file.xmp_metadata.stream.get_data().decode().replace("'", '"')


def test_metadata_hold_the_day_of_issue_and_no_clock() -> None:
    file = pypdf.PdfReader(io.BytesIO(pdf(a_statement())))
    metadata = file.metadata
    assert metadata is not None
    assert set(re.findall(rb"\d{4}-\d\d-\d\dT", file.xmp_metadata.stream.get_data())) == {b"2026-02-01T"}
    assert metadata.modification_date == metadata.creation_date
    assert metadata.title == "Statement of account ST-2026-00417"
    assert metadata.author == "Halden Software"
    assert metadata.creation_date is not None and metadata.creation_date.date() == date(2026, 2, 1)


PROGRAM = """
import hashlib, sys
from unit_test_documents import a_statement, pdf
print(hashlib.sha256(pdf(a_statement(40), sys.argv[1])).hexdigest())
"""


@pytest.mark.parametrize("language", ["de-AT", "ar-EG"])
def test_another_process_on_another_day_and_elsewhere_makes_the_same_bytes(language: str, tmp_path: Path) -> None:
    (tmp_path / "unit_test_documents.py").write_text(Path(__file__).read_text("utf-8"), "utf-8")
    hashes = set()
    for surroundings in (
        {"TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "1"},
        {"TZ": "America/Los_Angeles", "LC_ALL": "C", "PYTHONHASHSEED": "2", "SOURCE_DATE_EPOCH": "1"},
    ):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, language],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}", **surroundings},
        )
        hashes.add(run.stdout)
    assert len(hashes) == 1


def test_the_same_document_again_after_others_gives_the_same_bytes() -> None:
    first = pdf(a_statement(12), "de")
    pdf(a_statement(3), "ar")
    assert pdf(a_statement(12), "de") == first


def test_long_statements_repeat_the_heads_and_number_the_pages() -> None:
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf(a_statement(300)))).pages]
    assert len(pages) > 5
    for number, text in enumerate(pages, 1):
        assert f"Page {number} of {len(pages)}" in text
        assert "Description" in text


@pytest.mark.parametrize("count", [*range(21, 31), 58, 59, 60, 61])
def test_a_total_never_stands_alone_on_a_page(count: int) -> None:
    """Wherever the page breaks fall, the last line of the table is on the page of its total."""
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf(a_statement(count)))).pages]
    (closing,) = (text for text in pages if re.search(r"^Closing balance [\d,.-]+$", text, re.MULTILINE))
    assert re.search(r"^Jan \d+, 2026 .* [\d,.-]+ [\d,.-]+$", closing, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "country"),
    [
        ("株式会社 東京ソフトウェア", "JP"),
        ("北京软件有限公司", "CN"),
        ("臺北軟體股份有限公司", None),
        ("서울소프트웨어 주식회사", "KR"),
        ("บริษัท สยามซอฟต์แวร์ จำกัด", "TH"),
        ("देवनागरी कंपनी", "IN"),
        ("Ελληνική Εταιρεία", "GR"),
        ("Київське підприємство", "UA"),
        ("Công ty Phần mềm Hà Nội", "VN"),
    ],
)
def test_names_of_all_scripts_are_drawn_and_can_be_copied(name: str, country: str | None) -> None:
    file = pdf(a_statement(account_name=name, country=country))
    shown = re.sub(r"\s", "", read(file))
    assert "\ufffd" not in shown
    # Vowel signs of Thai and Devanagari may be copied in the order in which they are drawn.
    assert set(unicodedata.normalize("NFKC", re.sub(r"\s", "", name))) <= set(unicodedata.normalize("NFKC", shown))
    assert len(file) < 90_000


def test_a_hebrew_name_is_drawn() -> None:
    shown = read(pdf(a_statement(account_name="חברת אור בע״מ")))
    assert "\ufffd" not in shown
    assert set("חברתאורבע״מ") <= set(shown)


@pytest.mark.parametrize(
    ("country", "name", "form"),
    [
        ("JP", "直", "JP"),
        ("TW", "直", "TC"),
        ("KR", "直", "KR"),
        ("CN", "直", "SC"),
        (None, "直カ", "JP"),
        (None, "直", "SC"),
    ],
)
def test_chinese_characters_have_the_forms_of_their_country(country: str | None, name: str, form: str) -> None:
    fonts = {
        str(each.get_object()["/BaseFont"])
        for page in pypdf.PdfReader(io.BytesIO(pdf(a_statement(account_name=name, country=country)))).pages
        for each in page["/Resources"]["/Font"].values()
    }
    assert any(f"CJK{form}" in font.replace("-", "").upper() or f"CJK{form.lower()}" in font for font in fonts), fonts


LOGO = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><rect width="20" height="10" fill="#123"/></svg>'


def test_a_logo_stands_for_the_name_and_has_it_as_its_text() -> None:
    with_logo = msgspec.structs.replace(COMPANY, logo=LOGO, accent="#7c2d12")
    file = pdf(a_statement(), company=with_logo)
    assert read(file).count("Halden Software") == read(pdf(a_statement())).count("Halden Software") - 1
    assert pypdf.PdfReader(io.BytesIO(file)).root_object["/MarkInfo"]["/Marked"]


@pytest.mark.parametrize("changes", [{"logo": "a.svg"}, {"logo": "<svg"}, {"logo": "<html/>"}, {"accent": "red"}])
def test_what_is_no_logo_and_no_colour_is_refused_in_a_sentence(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"The company's (logo|colour) is .*\.$"):
        msgspec.structs.replace(COMPANY, **changes)


def test_both_forms_of_a_statement_show_the_same_figures() -> None:
    plain = in_open_items(a_statement())
    itemized, balance = read(pdf(plain)), read(pdf(msgspec.structs.replace(plain, open_items=None)))
    assert "Open items" in itemized and "Open items" not in balance
    for line in balance.splitlines():
        assert line in itemized


def test_open_items_that_do_not_make_the_ageing_are_refused() -> None:
    statement = in_open_items(a_statement())
    with pytest.raises(ValueError, match="its open items make"):
        msgspec.structs.replace(statement, open_items=statement.open_items[:1])


@pytest.mark.parametrize("changes", [{"total": 1}, {"net": 1}, {"settled": 190_891}, {"lines": LINES[:1]}])
def test_an_invoice_that_does_not_add_up_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Invoice 'INV-2026-00091' does not add up"):
        msgspec.structs.replace(INVOICE, **changes)


def test_how_to_pay_is_said_where_something_is_owed_and_nowhere_else() -> None:
    owed = read(pdf(a_statement(), company=BANK))
    assert "Please transfer €780.12." in owed and "NO93 8601 1117 947" in owed
    credit = a_statement(0, opening=-5, closing=-5, ageing=Ageing(unapplied_credit=5))
    assert "NO93" not in read(pdf(credit, company=BANK))
    assert "NO93" not in read(render_invoice(CREDIT_NOTE, company=BANK, language="en"))


@pytest.mark.parametrize(("language", "said"), [("en", "Payable at once"), ("de-AT", "Sofort zahlbar")])
def test_no_days_to_pay_are_at_once(language: str, said: str) -> None:
    document = msgspec.structs.replace(INVOICE, payment_terms=0, due_on=INVOICE.issued_on)
    assert said in read(render_invoice(document, company=COMPANY, language=language))


def test_an_empty_statement_is_a_statement() -> None:
    statement = a_statement(0, opening=0, closing=0, ageing=Ageing())
    assert "Closing balance 0.00" in read(pdf(statement))


def test_large_amounts_are_neither_wrapped_nor_clipped() -> None:
    huge = -123_456_789_012_345_678
    statement = a_statement(0, "KWD", opening=huge, closing=huge, ageing=Ageing(unapplied_credit=-huge))
    file = pypdf.PdfReader(io.BytesIO(pdf(statement)))
    assert len(file.pages) == 1
    # Opening and closing in the panel, unapplied credit and balance in the ageing.
    assert read(pdf(statement)).count("-KWD 123,456,789,012,345.678") == 4


def test_a_statement_that_does_not_add_up_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="opening 45000 and movements 33012 make 78012, and its closing balance is 1"):
        a_statement(closing=1)
    with pytest.raises(ValueError, match="its ageing makes 5, and its closing balance is 78012"):
        a_statement(ageing=Ageing(not_due=5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_setting_after_a_fork_is_refused_instead_of_waiting_for_ever() -> None:
    program = """
import os, signal
from unit_test_documents import a_statement, pdf
pdf(a_statement())
if not (child := os.fork()):
    signal.alarm(20)
    try:
        pdf(a_statement())
    except RuntimeError as error:
        os._exit(7 if "before this process was forked" in str(error) else 1)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    folder = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", program.replace("unit_test_documents", Path(__file__).stem)],
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{Path(__file__).parents[3]}"},
    )
    assert run.returncode == 7
