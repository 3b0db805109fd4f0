"""`datamap.toml` is read strictly: what is wrong is a sentence that says where (T5, T8)."""

from __future__ import annotations

from pathlib import Path as File

import pytest

from models.base.base import Base
from models.data_map.file import OWN_FOLDERS, load, parse
from models.data_map.map import (
    AccountKey,
    Category,
    DataMapError,
    Ignored,
    Name,
    ObjectPrefix,
    Path,
    Redact,
    Retention,
    Shared,
    own_map,
)
from models.data_map.places import Folder

GOOD = """
[databases.shop]
address_from = "SHOP_DATABASE_URL"

[[table]]
name = "public.customer"
category = "P2.1b"
paths = ["code = account.ref"]
key = ["id"]
exported = ["id", "code", "e-mail"]
redact = { "e-mail" = "NULL" }

[table.left_out]
password_hash = "a credential"

[[table]]
name = 'public."Invoice"'
database = "shop"
category = "P2.1c"
paths = ["customer_id = public.customer.id > code = account.ref"]
exported = ["id", "issued_on", "address"]

[table.retention]
legal_basis = "§ 132 BAO"
duration = "P7Y6M"
counted_from = "issued_on"
redacted = { address = "''" }

[[shared]]
tables = ["public.track", "public.album"]
reason = "the catalogue"

[[ignored]]
tables = ["audit.log"]
reason = "kept for a week"

[[objects]]
prefix = "uploads/{account_ref}/"
category = "P2.1c"

[[redis]]
pattern = "cart:{account_ref}:*"
category = "P2.1c"
address_from = "CARTS_URL"
left_out = "gone within the hour"

[[processor]]
name = "Stripe"
receives = "name and address of who pays"
purge = "delete the customer"
"""


def test_a_good_file_says_what_it_says() -> None:
    company = parse(GOOD)
    customer, invoice = company.map.tables
    assert (customer.name, customer.category, customer.key) == (Name("public", "customer"), Category.SETUP, ("id",))
    assert customer.paths == (Path((), "code", AccountKey.REF),)
    assert customer.left_out == {"password_hash": "a credential"}
    assert customer.purge == Redact({"e-mail": "NULL"})
    assert (invoice.name, invoice.database) == (Name("public", "Invoice"), "shop")
    assert invoice.retention == Retention("§ 132 BAO", "P7Y6M", "issued_on", {"address": "''"})
    assert [(each.name.table, each.decision) for each in company.map.unmapped] == [
        ("track", Shared("the catalogue")),
        ("album", Shared("the catalogue")),
        ("log", Ignored("kept for a week")),
    ]
    assert company.databases == {"shop": "SHOP_DATABASE_URL"}
    assert [each.prefix for each in company.map.objects] == ["uploads/{account_ref}/"]
    assert [each.left_out for each in company.map.redis] == ["gone within the hour"]
    assert [each.purge for each in company.map.processors] == ["delete the customer"]


def test_retention_is_none_unless_it_is_said() -> None:
    assert parse(GOOD).map.tables[0].retention is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[[shared]]", "[[shraed]]", 'no section "shraed"; there are'),
        ("[[shared]]", "[shared]", "shared is a list: write [[shared]] above each entry"),
        ('category = "P2.1b"', 'category = "P2.1d"', '"P2.1d" is none of P2.1a, P2.1b, P2.1c, platform'),
        ('category = "P2.1b"', "", '[[table]] public.customer: it lacks the field "category"'),
        ('key = ["id"]', 'keys = ["id"]', '[[table]] public.customer: it has no field "keys"'),
        ('key = ["id"]', 'key = "id"', "Expected `array`, got `str`, in key"),
        ('key = ["id"]', 'key = ["nr"]', "the column nr is neither in exported nor in left_out"),
        ('name = "public.customer"', 'name = "customer"', '"customer" names no table: write schema.table'),
        ('name = "public.customer"', 'name = "tenure.contacts"', "tenure.contacts is Tenure's own"),
        ('paths = ["code = account.ref"]', "paths = []", "Expected `array` of length >= 1, in paths"),
        ('paths = ["code = account.ref"]', 'paths = ["code"]', 'the path "code" does not end at the account'),
        ("password_hash =", "code =", "the column code is named twice"),
        ('redact = { "e-mail" = "NULL" }', "redact = {}", "redact names no column"),
        ('redact = { "e-mail" = "NULL" }', 'redact = { phone = "NULL" }', "the column phone is neither"),
        ('"P7Y6M"', '"7 years"', 'the duration "7 years" of its retention is none: write P7Y'),
        ('"P7Y6M"', '"P"', 'the duration "P" of its retention is none'),
        ('counted_from = "issued_on"', 'counted_from = "paid_on"', "counts from the column paid_on"),
        ('legal_basis = "§ 132 BAO"', "", 'it lacks the field "legal_basis"'),
        (
            'reason = "the catalogue"',
            'reason = ""',
            "[[shared]] public.track: Expected `str` of length >= 1, in reason",
        ),
        ('"audit.log"', '"public.track"', "public.track stands in it 2 times"),
        ("[databases.shop]", "[databases.store]", 'lie in the database "shop": write [databases.shop]'),
        ("[databases.shop]", "[databases.main]", 'the database "main" is the one that Tenure lies in'),
        ("uploads/{account_ref}/", "uploads/{account_ref}", "end with a slash"),
        ("uploads/{account_ref}/", "uploads/", "must have {account_id} or {account_ref} in it"),
        # Customers choose their refs: "archives" would be a customer to whom all archives belong.
        ("uploads/{account_ref}/", "{account_ref}/", "could be called an account: let it begin with a folder of yours"),
        ("uploads/{account_ref}/", "a{account_ref}/x/", "could be called an account"),
        ("uploads/{account_ref}/", "files/{account_id}/", "are Tenure's"),
        (
            "[[redis]]",
            '[[objects]]\nprefix = "uploads/{account_ref}/small/"\ncategory = "P2.1c"\n[[redis]]',
            '[[objects]] uploads/{account_ref}/small/ lies below "uploads/{account_ref}/"',
        ),
        ("[[redis]]", '[[objects]]\nprefix = "uploads/{account_ref}/"\ncategory = "P2.1c"\n[[redis]]', "lies below"),
        (
            "[[redis]]",
            '[[redis]]\npattern = "cart:{account_ref}:*"\ncategory = "P2.1c"\naddress_from = "CARTS_URL"\n[[redis]]',
            "[[redis]] cart:{account_ref}:* stands in it 2 times",
        ),
        ('"P7Y6M"', '"P99999Y"', 'the duration "P99999Y" of its retention is none'),
        ("[[table]]", f"a = {'[' * 5000}", "it holds lists within lists"),
        ("cart:{account_ref}:*", "cart:*", "must have {account_id} or {account_ref} in it"),
        ("[[ignored]]", "[[undecided]]", '[[undecided]] audit.log: it has no field "reason"'),
        ("[[table]]", "[[table]", "is no TOML"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_entry(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(DataMapError) as error:
        parse(GOOD.replace(old, new, 1))
    assert str(error.value).startswith("datamap.toml")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('purge = "delete"', 'nobody would do what its purge says ("delete"): name in address_from'),
        ('address_from = "LIST_URL"', "it has address_from, so say in purge what is done there"),
        ('token_from = "LIST_TOKEN"', "token_from goes with address_from"),
        ('purge = ""', "Expected `str` of length >= 1, in purge"),
    ],
)
def test_a_processor_that_nobody_asks_is_no_promise(entry: str, said: str) -> None:
    with pytest.raises(DataMapError, match=r"\[\[processor\]\] Mailing list: ") as error:
        parse(f'[[processor]]\nname = "Mailing list"\nreceives = "addresses"\n{entry}')
    assert said in str(error.value)


def test_the_payment_provider_is_asked_by_its_own_api() -> None:
    with pytest.raises(DataMapError, match="Tenure asks it by its own API, so leave address_from out"):
        parse(GOOD.replace('purge = "delete the customer"', 'purge = "delete the customer"\naddress_from = "STRIPE"'))
    with pytest.raises(DataMapError, match=r'the \[\[processor\]\] "stripe" stands in it 2 times'):
        parse(GOOD + '[[processor]]\nname = "STRIPE"\nreceives = "cards"')


def test_what_is_undecided_does_not_pass() -> None:
    with pytest.raises(DataMapError, match=r"a\.b and 1 more are still undecided: move each to"):
        parse('[[undecided]]\ntables = ["a.b", "a.c"]')


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: File) -> None:
    with pytest.raises(DataMapError, match="cannot be read: No such file"):
        load(tmp_path / "datamap.toml")
    (tmp_path / "datamap.toml").write_text(GOOD, encoding="utf-8-sig")
    assert load(tmp_path / "datamap.toml") == parse(GOOD)
    (tmp_path / "datamap.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DataMapError, match="is not UTF-8"):
        load(tmp_path / "datamap.toml")


def test_tenures_own_folders_are_those_that_it_writes_to() -> None:
    own = [*Folder, *(each.prefix for each in own_map(Base).objects)]
    assert {each.partition("/")[0] for each in own} == OWN_FOLDERS


def test_objects_of_a_bucket_of_ones_own_may_begin_with_the_ref() -> None:
    company = parse('[[objects]]\nprefix = "{account_ref}/"\ncategory = "P2.1c"\nbucket = "uploads"\n')
    assert company.map.objects == (ObjectPrefix("{account_ref}/", Category.SUBMITTED, bucket="uploads"),)
