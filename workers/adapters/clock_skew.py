"""Clock skew correction: sign requests with the time of the server that refuses ours.

Amazon S3, and what speaks its protocol, refuses a request that was signed more than fifteen minutes before or after its
own time (`RequestTimeTooSkewed`). The machine's clock may be off by more: until NTP has set it after a boot, or after a
virtual machine was resumed. As the newer AWS SDKs do, and boto3 does not, the client then reads the server's time from
the answer's `Date`, signs again, and keeps the difference for the requests that follow.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-clock-skew.html
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.auth import AUTH_TYPE_MAPS, SIGV4_TIMESTAMP, S3SigV4Auth

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from botocore.client import BaseClient

#: Less than this is not why a server refuses a request: Amazon's limit is 15 minutes, and AWS SDKs correct from 4 on.
SMALLEST: Final = timedelta(minutes=4)
_SIGNATURE: Final = "tenure-s3v4"
_SKEW: Final = "tenure_clock_skew"


class _CorrectedAuth(S3SigV4Auth):
    """Signature version 4 for S3, at the machine's time plus the skew that the request's context names."""

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        skew: timedelta = request.context.get(_SKEW, timedelta(0))
        if skew:
            at = datetime.strptime(request.context["timestamp"], SIGV4_TIMESTAMP).replace(tzinfo=UTC) + skew
            request.context["timestamp"] = at.strftime(SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)  # type: ignore[misc]  # the stubs leave it out


class _Skew:
    """The server's time minus the machine's, as one client knows it. Threads may share it."""

    def __init__(self) -> None:
        self.known = timedelta(0)

    def choose_signer(self, signature_version: str, **_: Any) -> str | None:
        # Not for requests without a signature or with one in their URL.
        return _SIGNATURE if signature_version in ("v4", "s3v4") else None

    def pass_on(self, request: AWSRequest, **_: Any) -> None:
        request.context[_SKEW] = self.known

    def retry_if_learned(self, response: tuple[Any, Mapping[str, Any]] | None, attempts: int, **_: Any) -> int | None:
        """Return the seconds to wait before the request is sent again: 0 if its time was why it was refused."""
        if response is None or attempts > 2 or response[1]["ResponseMetadata"]["HTTPStatusCode"] != 403:
            return None
        # The code alone would not do: the answer to HEAD has no body that could name it.
        date = response[1]["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        if date is None:
            return None
        skew = parsedate_to_datetime(date) - datetime.now(UTC)
        if abs(skew - self.known) < SMALLEST:
            return None
        self.known = skew
        return 0


def correct_clock_skew(client: BaseClient) -> None:
    """Make this S3 client sign with its server's time once the server has refused the machine's."""
    skew = _Skew()
    # The stubs know of no handler that returns something.
    AUTH_TYPE_MAPS[_SIGNATURE] = _CorrectedAuth
    client.meta.events.register_first("choose-signer.s3", skew.choose_signer)  # type: ignore[arg-type]
    client.meta.events.register("before-sign.s3", skew.pass_on)
    client.meta.events.register_first("needs-retry.s3", skew.retry_if_learned)  # type: ignore[arg-type]
