"""Objects in S3, or anything that speaks its protocol, by boto3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.failures import Permanent, Unavailable
from workers.settings import Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

#: What is held in memory of an upload. Of a multipart upload S3 takes parts from 5 MiB on, 10,000 at the most.
PART = 8 << 20
MOST_PARTS = 10_000


class S3ObjectStore:
    """One client, made at the first use and kept with its open connections: making one costs 5 ms and more."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: S3Client | None = None

    @property
    def client(self) -> S3Client:
        if self._made is None:
            settings = self._settings
            self._made = boto3.client(
                "s3",
                endpoint_url=settings.s3_endpoint,
                region_name=settings.s3_region,
                aws_access_key_id=settings.s3_access_key,
                aws_secret_access_key=settings.s3_secret_key,
                config=Config(
                    connect_timeout=5,
                    read_timeout=30,
                    retries={"mode": "standard", "total_max_attempts": 3},
                    s3={"addressing_style": "path"},
                    tcp_keepalive=True,
                ),
            )
        return self._made

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        try:
            self.client.put_object(Bucket=self._settings.s3_bucket, Key=key, Body=body, ContentType=content_type)
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "store") from error

    def get(self, key: str) -> bytes:
        try:
            return self.client.get_object(Bucket=self._settings.s3_bucket, Key=key)["Body"].read()
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "read") from error

    def upload(self, key: str, parts: Iterable[bytes], *, content_type: str) -> None:
        # Always in parts, however small: `erase` aborts what was begun, which a single PUT would outlive.
        bucket = self._settings.s3_bucket
        try:
            begun = self.client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=content_type)["UploadId"]
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "store") from error
        try:
            sent: list[CompletedPartTypeDef] = []
            for number, part in enumerate(_regrouped(parts), start=1):
                if number > MOST_PARTS:
                    raise Permanent(f"The object is larger than {MOST_PARTS * PART >> 30} GiB, which is not stored.")
                answer = self.client.upload_part(Bucket=bucket, Key=key, UploadId=begun, PartNumber=number, Body=part)
                sent.append({"PartNumber": number, "ETag": answer["ETag"]})
            self.client.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=begun, MultipartUpload={"Parts": sent}
            )
        except BaseException as error:
            with suppress(BotoCoreError, ClientError):
                self.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=begun)
            if isinstance(error, BotoCoreError | ClientError):
                raise _failure(error, "store") from error
            raise

    def erase(self, key: str) -> None:
        bucket = self._settings.s3_bucket
        try:
            # Uploads first: one that completes before its turn has come is found among the versions.
            for uploads in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key):
                for upload in uploads.get("Uploads", ()):
                    if upload["Key"] == key:
                        self.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
            for page in self.client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key):
                for version in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                    if version["Key"] == key:
                        self.client.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "remove") from error


def _regrouped(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of `PART`, the last one smaller; an empty object is one empty part."""
    waiting = bytearray()
    number = 0
    for chunk in parts:
        waiting += chunk
        while len(waiting) >= PART:
            yield bytes(memoryview(waiting)[:PART])
            del waiting[:PART]
            number += 1
    if waiting or not number:
        yield bytes(waiting)


def _failure(error: BotoCoreError | ClientError, verb: str) -> Permanent | Unavailable:
    """A missing object is lost for good; a missing bucket, a refused key or a dead server is not the row's fault."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchKey":
            return Permanent("The object to be read is not in the object store: make it again, then retry.")
        return Unavailable(f"The object store refused to {verb} an object ({code or 'no reason given'}).")
    return Unavailable(f"The object store did not answer ({type(error).__name__}).")
