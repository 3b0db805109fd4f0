"""A machine whose clock is wrong still reaches its object store (workers/adapters/clock_skew.py)."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

import botocore.auth
import pytest
from botocore.compat import get_current_datetime

from models.data_map.places import Folder, FolderPlace
from tasks.failures import Unavailable
from workers.adapters import clock_skew
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import parse


class WrongClock(datetime):
    """The machine's clock, wrong by `by`."""

    by = timedelta(0)

    @classmethod
    def now(cls, tz=None):  # type: ignore[no-untyped-def, override]
        return datetime.now(tz) + cls.by


@pytest.fixture
def wrong_clock(monkeypatch: pytest.MonkeyPatch) -> type[WrongClock]:
    monkeypatch.setattr(WrongClock, "by", timedelta(0))
    monkeypatch.setattr(clock_skew, "datetime", WrongClock)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: get_current_datetime() + WrongClock.by)
    return WrongClock


@pytest.mark.parametrize(
    "by",
    [timedelta(hours=1), timedelta(hours=-1), timedelta(days=800), timedelta(minutes=5), timedelta(0)],
    ids=str,
)
def test_what_a_wrong_clock_signs_is_signed_again(
    servers: dict[str, str], wrong_clock: type[WrongClock], by: timedelta
) -> None:
    store = S3ObjectStore(parse(servers))
    folder = uuid4()
    one, parts = (FolderPlace(Folder.ARCHIVES, f"{folder}/{name}") for name in ("one", "parts"))
    prefix = f"{Folder.ARCHIVES.prefix}{folder}/"
    wrong_clock.by = by
    store.put(one, b"one", content_type="text/plain")
    store.upload(parts, iter([b"1", b"2"]), content_type="text/plain")
    assert store.get(one.key) == b"one"
    assert b"".join(store.read(parts.key)) == b"12"
    # The clock is set while the client lives.
    wrong_clock.by = timedelta(0)
    assert [each.key for each in store.list(prefix)] == [one.key, parts.key]
    assert store.remove(list(store.versions(prefix))) == []


def test_head_is_signed_again_though_its_refusal_names_no_code(
    servers: dict[str, str], wrong_clock: type[WrongClock]
) -> None:
    store = S3ObjectStore(parse(servers))
    wrong_clock.by = timedelta(hours=1)
    bucket = servers["TENURE_S3_BUCKET"]
    assert store.client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_refusal_for_another_reason_stays_one(servers: dict[str, str], wrong_clock: type[WrongClock]) -> None:
    store = S3ObjectStore(parse(servers | {"TENURE_S3_SECRET_KEY": "not the secret"}))
    wrong_clock.by = timedelta(hours=1)
    with pytest.raises(Unavailable, match="SignatureDoesNotMatch"):
        store.get("anything")
