"""The README of a customer's record, in every language that we write."""

from __future__ import annotations

from datetime import date

import pytest

from email_templates.language.company import Company
from email_templates.language.translations import languages
from email_templates.pages.archive_readme import Kept, record_readme
from tests.support.rendered.golden_files import Golden

COMPANY = Company(name="Harbour Ledger", address=(), email="help@harbour.example", website="harbour.example")


@pytest.mark.parametrize("language", languages())
def test_golden_readme(golden: Golden, language: str) -> None:
    golden(
        f"documents/record-{language}.txt",
        record_readme(company=COMPANY, account_name="Müller & شركة", language=language),
    )


@pytest.mark.parametrize("language", languages())
def test_golden_readme_with_what_a_law_keeps(golden: Golden, language: str) -> None:
    kept = (
        Kept("shop.invoice", "§ 132 BAO", date(2033, 12, 31), ("street", "city")),
        Kept("shop.payment in billing", "HGB § 257", date(2036, 12, 31)),
    )
    said = record_readme(company=COMPANY, account_name="Müller & شركة", language=language, kept=kept)
    golden(f"documents/record-kept-{language}.txt", said)


def test_names_begin_no_line_of_ours() -> None:
    said = record_readme(company=COMPANY, account_name="x\n\nPay here\u202e", language="xx")
    assert "\nPay" not in said
    assert "\u202e" not in said
    assert said.startswith("This archive holds")
