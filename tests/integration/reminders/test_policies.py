"""Reminder policies are data, and the database refuses those that are not in order (B11)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, refusal
from tests.support.rows.reminding import STANDARD, a_policy, run

FIRST = {"days": 5, "level": "first"}
FINAL = {"days": 30, "level": "final", "pay_within": 7}


def refused(database: Database, sql: str, **values: Any) -> str:
    with pytest.raises(DBAPIError) as caught, database.connection() as connection:
        connection.execute(text(sql), values)
    said = refusal(caught.value)
    assert said is not None
    return said


@pytest.mark.parametrize(
    ("steps", "options", "said"),
    [
        (
            [FIRST, {"days": 5, "level": "second"}],
            "",
            'the reminder policy "p" is not in order: step 2 comes on day 5, which is not after step 1 on day 5. '
            "Number its steps from 1, each on a later day and of no lower level than the one before.",
        ),
        (
            [{"days": 9, "level": "first"}, FIRST],
            "",
            'the reminder policy "p" is not in order: step 2 comes on day 5, which is not after step 1 on day 9. '
            "Number its steps from 1, each on a later day and of no lower level than the one before.",
        ),
        (
            [{"days": 3, "level": "second"}, FIRST],
            "",
            'the reminder policy "p" is not in order: step 2 is "first" and comes after "second". '
            "Number its steps from 1, each on a later day and of no lower level than the one before.",
        ),
        (
            [{"days": -3, "level": "upcoming"}, FINAL],
            "",
            'the reminder policy "p" is not in order: step 2 is "final", and no step before it is "first" or "second". '
            "Number its steps from 1, each on a later day and of no lower level than the one before.",
        ),
        (
            [{**FIRST, "fee": 500, "fee_currency": "XXQ"}],
            "",
            'the reminder policy "p" is not in order: the fee of step 1 is in "XXQ", which is not a currency of '
            "ISO 4217. Number its steps from 1, each on a later day and of no lower level than the one before.",
        ),
        (
            [{**FIRST, "fee": 500}],
            "",
            'the fee of step 1 of the reminder policy "p" is no amount. Give fee in minor units, and fee_currency.',
        ),
        (
            [{**FIRST, "fee": 4.99, "fee_currency": "EUR"}],
            "",
            '"fee" of step 1 of the reminder policy "p" is no whole number.',
        ),
        (
            [{**FIRST, "colour": "red"}],
            "",
            'step 1 of the reminder policy "p" has no "colour". '
            "It has days and level, and may have fee, fee_currency and pay_within.",
        ),
        (
            [{"days": 5, "level": "angry"}],
            "",
            'step 1 of the reminder policy "p" has the level "angry". A level is upcoming, first, second or final.',
        ),
        (
            [{"days": -1, "level": "first"}],
            "",
            'step 1 of the reminder policy "p" is "first" and comes on day -1. Upcoming ones come on day -60 to 0, '
            "counted from the due date; all others on day 1 to 365 of being overdue.",
        ),
        (
            [FIRST, {"days": 30, "level": "final"}],
            "",
            'step 2 of the reminder policy "p" does not say when to pay. '
            "Give pay_within, 1 to 60 days; a final step needs it.",
        ),
        ([7], "", 'step 1 of the reminder policy "p" is no JSON object. Write {"days": 7, "level": "first"}.'),
        (
            {"days": 7},
            "",
            'the steps of the reminder policy "p" are no JSON array. '
            'Write them as [{"days": 7, "level": "first"}, …]; [] reminds nobody.',
        ),
        (
            [FIRST],
            ", minimum_gap_days => 0",
            'the reminder policy "p" has 0 days of grace and a gap of 0 days. Grace is 0 to 60 days, the gap 1 to 90.',
        ),
        (
            [FIRST],
            ", opens_at => '17:00', closes_at => '09:00'",
            'the reminder policy "p" opens at 17:00:00 and closes at 09:00:00. '
            "Let it close an hour after it opens, at the earliest.",
        ),
    ],
)
def test_a_policy_that_is_not_in_order_is_refused_with_a_sentence(
    database: Database, steps: Any, options: str, said: str
) -> None:
    sql = f"SELECT tenure.set_reminder_policy('p', CAST(:steps AS jsonb){options})"
    assert refused(database, sql, steps=json.dumps(steps)) == said
    assert run(database, "SELECT FROM tenure.reminder_policies") == []


def test_a_ladder_cannot_be_put_out_of_order_behind_that_function(database: Database) -> None:
    a_policy(database)
    for change in (
        "UPDATE tenure.reminder_steps SET days = 11 WHERE number = 2",
        "DELETE FROM tenure.reminder_steps WHERE number = 2",
        "UPDATE tenure.reminder_steps SET fee = 5, fee_currency = 'ABC' WHERE number = 2",
    ):
        assert refused(database, change).startswith('the reminder policy "standard" is not in order: ')
    assert len(run(database, "SELECT FROM tenure.reminder_steps")) == len(STANDARD)


def test_the_default_policy_is_one_and_a_policy_is_replaced_by_its_name(database: Database) -> None:
    first = a_policy(database)
    second = a_policy(database, [FIRST], name="mild")
    assert a_policy(database, [], name="mild", grace_days=5) == second
    assert run(database, "SELECT name, is_default, grace_days FROM tenure.reminder_policies ORDER BY name") == [
        ("mild", True, 5),
        ("standard", False, 0),
    ]
    assert [row.policy_id for row in run(database, "SELECT DISTINCT policy_id FROM tenure.reminder_steps")] == [first]
