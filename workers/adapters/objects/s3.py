"""Objects in S3, or anything that speaks its protocol, by boto3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from models.data_map.places import ObjectPlace
from tasks.failures import Permanent, Transient, Unavailable
from tasks.ports.objects import Locked, StoredObject, StoredVersion
from workers.adapters.clock_skew import correct_clock_skew
from workers.adapters.objects.parts import MOST
from workers.adapters.objects.parts import parts as regrouped
from workers.settings.settings import Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef, ObjectIdentifierTypeDef

#: Bytes of a piece that is read.
_PIECE: Final = 1 << 18
#: Why a version is not removed: it may be locked; it is gone.
_LOCKED: Final = frozenset({"AccessDenied", "ObjectLocked", "InvalidRequest"})
_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion"})


class S3ObjectStore:
    """One client, made at the first use and kept with its open connections: making one costs 5 ms and more."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: S3Client | None = None

    @property
    def client(self) -> S3Client:
        if self._made is None:
            settings = self._settings
            made = boto3.client(
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
            correct_clock_skew(made)
            self._made = made
        return self._made

    def put(self, place: ObjectPlace, body: bytes, *, content_type: str) -> None:
        try:
            self.client.put_object(Bucket=self._settings.s3_bucket, Key=place.key, Body=body, ContentType=content_type)
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "store") from error

    def get(self, key: str) -> bytes:
        try:
            return self.client.get_object(Bucket=self._settings.s3_bucket, Key=key)["Body"].read()
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "read") from error

    def upload(self, place: ObjectPlace, parts: Iterable[bytes], *, content_type: str) -> None:
        # Always in parts, however small: `erase` aborts what was begun, which a single PUT would outlive.
        bucket, key = self._settings.s3_bucket, place.key
        try:
            begun = self.client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=content_type)["UploadId"]
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "store") from error
        try:
            sent: list[CompletedPartTypeDef] = []
            # Not by `enumerate`, which holds on to a part while the next one is made.
            for part in regrouped(parts):
                number = len(sent) + 1
                if number > MOST:
                    raise Permanent(f"The object is larger than {MOST:,} parts of an upload can hold.")
                answer = self.client.upload_part(
                    Bucket=bucket,
                    Key=key,
                    UploadId=begun,
                    PartNumber=number,
                    Body=part,  # type: ignore[arg-type]
                )
                sent.append({"PartNumber": number, "ETag": answer["ETag"]})
                del part
            self._complete(key, begun, sent)
        except BaseException as error:
            with suppress(BotoCoreError, ClientError):
                self.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=begun)
            if isinstance(error, BotoCoreError | ClientError):
                raise _failure(error, "store") from error
            raise

    def _complete(self, key: str, upload: str, sent: list[CompletedPartTypeDef]) -> None:
        bucket = self._settings.s3_bucket
        try:
            self.client.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": sent}
            )
        except ClientError as error:
            # Where the first answer was lost and boto3 asked again, there is no upload any more, but the object.
            if _code(error) != "NoSuchUpload" or not self._is_there(key):
                raise

    def _is_there(self, key: str) -> bool:
        try:
            self.client.head_object(Bucket=self._settings.s3_bucket, Key=key)
        except ClientError:
            return False
        return True

    def versions(self, prefix: str, *, bucket: str | None = None) -> Iterator[StoredVersion]:
        pages = self.client.get_paginator("list_object_versions")
        try:
            for page in pages.paginate(Bucket=bucket or self._settings.s3_bucket, Prefix=prefix):
                for each in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                    if each["Key"].startswith(prefix):
                        yield StoredVersion(each["Key"], each["VersionId"])
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "list") from error

    def remove(self, versions: Sequence[StoredVersion], *, bucket: str | None = None) -> Sequence[Locked]:
        where = bucket or self._settings.s3_bucket
        wanted: list[ObjectIdentifierTypeDef] = [{"Key": each.key, "VersionId": each.version} for each in versions]
        try:
            answer = self.client.delete_objects(Bucket=where, Delete={"Objects": wanted, "Quiet": True})
            refused = [(each, str(each.get("Code", ""))) for each in answer.get("Errors", ())]
            other = [code for _, code in refused if code not in _LOCKED and code not in _GONE]
            if other:
                raise Unavailable(f"The object store refused to remove an object ({other[0] or 'no reason given'}).")
            kept = [StoredVersion(each["Key"], each["VersionId"]) for each, code in refused if code in _LOCKED]
            return [self._locked(each, where) for each in kept]
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "remove") from error

    def _locked(self, stored: StoredVersion, bucket: str) -> Locked:
        """Until when. Raises Unavailable where it is not a lock for which the store refuses to remove it."""
        found = self.client.head_object(Bucket=bucket, Key=stored.key, VersionId=stored.version)
        mode: str | None = found.get("ObjectLockMode")
        until: datetime | None = found.get("ObjectLockRetainUntilDate") if mode else None
        held: str | None = found.get("ObjectLockLegalHoldStatus")
        if until is None and held != "ON":
            raise Unavailable("The object store refused to remove an object (AccessDenied), though nothing locks it.")
        return Locked(stored, until)

    def abandon(self, prefix: str, *, bucket: str | None = None) -> int:
        where = bucket or self._settings.s3_bucket
        abandoned = 0
        try:
            for key, upload in self._uploads(prefix, where):
                self._abort(where, key, upload)
                abandoned += 1
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "clean up") from error
        return abandoned

    def unfinished(self, prefix: str, *, bucket: str | None = None) -> int:
        try:
            return sum(1 for _ in self._uploads(prefix, bucket or self._settings.s3_bucket))
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "list") from error

    def _uploads(self, prefix: str, bucket: str) -> Iterator[tuple[str, str]]:
        for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Uploads", ()):
                # Not every S3 takes the prefix for one.
                if each["Key"].startswith(prefix):
                    yield each["Key"], each["UploadId"]

    def _abort(self, bucket: str, key: str, upload: str) -> None:
        try:
            self.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        except ClientError as error:
            if _code(error) != "NoSuchUpload":
                raise

    def read(self, key: str, start: int = 0, stop: int | None = None, *, bucket: str | None = None) -> Iterator[bytes]:
        if stop is not None and start >= stop:
            return
        last = "" if stop is None else stop - 1
        wanted: dict[str, Any] = {} if (start, stop) == (0, None) else {"Range": f"bytes={start}-{last}"}
        try:
            body = self.client.get_object(Bucket=bucket or self._settings.s3_bucket, Key=key, **wanted)["Body"]
            with closing(body):
                yield from body.iter_chunks(_PIECE)
        except (BotoCoreError, ClientError, HTTPError, OSError) as error:
            # The last two come while the body is read: boto3 retries what comes before it.
            raise _failure(error, "read") from error

    def list(self, prefix: str, *, bucket: str | None = None) -> Iterator[StoredObject]:
        pages = self.client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=bucket or self._settings.s3_bucket, Prefix=prefix):
                for each in page.get("Contents", ()):
                    yield StoredObject(each["Key"], each["Size"])
        except (BotoCoreError, ClientError) as error:
            raise _failure(error, "list") from error

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


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _failure(error: Exception, verb: str) -> Permanent | Transient | Unavailable:
    """A missing object is lost for good; a missing bucket, a refused key or a dead server is not the row's fault."""
    match _code(error):
        case "NoSuchKey":
            return Permanent("The object to be read is not in the object store: make it again, then retry.")
        case "NoSuchUpload":
            return Transient("The upload was ended by another process while it went on.")
    if isinstance(error, ClientError):
        return Unavailable(f"The object store refused to {verb} an object ({_code(error) or 'no reason given'}).")
    return Unavailable(f"The object store did not answer ({type(error).__name__}).")
