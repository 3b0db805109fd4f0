"""Objects in S3, or anything that speaks its protocol, by boto3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.failures import Permanent, Unavailable
from workers.settings import Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


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


def _failure(error: BotoCoreError | ClientError, verb: str) -> Permanent | Unavailable:
    """A missing object is lost for good; a missing bucket, a refused key or a dead server is not the row's fault."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchKey":
            return Permanent("The object to be read is not in the object store: make it again, then retry.")
        return Unavailable(f"The object store refused to {verb} an object ({code or 'no reason given'}).")
    return Unavailable(f"The object store did not answer ({type(error).__name__}).")
