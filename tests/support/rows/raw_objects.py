"""Objects written past the places that the data map knows: what an application, an older version or a stranger left."""

from __future__ import annotations

from tasks.ports.objects import ObjectStore
from workers.adapters.objects.s3 import S3ObjectStore


def put_raw(objects: ObjectStore, key: str, body: bytes, content_type: str = "application/octet-stream") -> None:
    """Store `body` under any key of the bucket."""
    assert isinstance(objects, S3ObjectStore)
    objects.client.put_object(Bucket=objects._settings.s3_bucket, Key=key, Body=body, ContentType=content_type)
