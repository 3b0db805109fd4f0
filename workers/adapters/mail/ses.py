"""Mail over the API of Amazon SES, version 2, by boto3 (E9, E10).

    ses://eu-central-1?configuration_set=tenure              # boto3 finds the credentials: a role, or AWS_* variables
    ses://KEY:SECRET@eu-central-1                            # percent-encoded where they need it

The message goes out as it was composed (raw MIME), but SES puts a Message-ID of its own in the place of ours. So each
carries our reference as a tag, which SES quotes in every event of a configuration set.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore import exceptions
from botocore.config import Config

from tasks.failures import Barred, Failure, Permanent, Unavailable, Unsuitable
from tasks.mail.wire_check import require_lines
from tasks.ports.mail import Ambiguous, Envelope, Permit, Receipt

if TYPE_CHECKING:
    from types_boto3_sesv2 import SESV2Client
    from types_boto3_sesv2.type_defs import SendEmailRequestTypeDef

#: Seconds for a connection to be made.
CONNECT_TIMEOUT = 5.0
#: The tag that names the row of a message, in what is sent and in the events that come back.
TAG = "tenure-message"

#: Nothing has left: no connection was made, or no request could be built.
BEFORE = (
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyConnectionError,
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.UnknownEndpointError,
    exceptions.EndpointProviderError,
)
#: Refusals of this one message. All other refusals speak of the account, its limits or its rights: no row is to blame.
ABOUT_THE_MESSAGE = {"MessageRejected", "BadRequestException", "ValidationException", "InvalidParameterValue"}


class SESMailer:
    """One client, made at the first use, and its one connection kept open."""

    def __init__(self, address: str, *, timeout: float) -> None:
        parts = urlsplit(address)
        options = parse_qs(parts.query)
        self._region = parts.hostname or ""
        self._key = unquote(parts.username) if parts.username else None
        self._secret = unquote(parts.password) if parts.password else None
        self._configuration_set = options.get("configuration_set", [None])[0]
        #: Another address of the API, such as a VPC endpoint.
        self._endpoint = options.get("endpoint", [None])[0]
        self._timeout = timeout
        self._made: SESV2Client | None = None

    @property
    def client(self) -> SESV2Client:
        if self._made is None:
            self._made = boto3.client(
                "sesv2",
                region_name=self._region,
                endpoint_url=self._endpoint,
                aws_access_key_id=self._key,
                aws_secret_access_key=self._secret,
                config=Config(
                    connect_timeout=CONNECT_TIMEOUT,
                    read_timeout=self._timeout,
                    # botocore would send again what may have been accepted.
                    retries={"mode": "standard", "total_max_attempts": 1},
                    max_pool_connections=1,
                    tcp_keepalive=True,
                ),
            )
        return self._made

    def send(self, envelope: Envelope, *, permit: Permit, before_commit: Callable[[], None]) -> Receipt:
        if not (envelope.recipient.isascii() and envelope.recipient.isprintable()):
            raise Unsuitable("Amazon SES does not take addresses outside ASCII, or with control characters.")
        require_lines(envelope.content)
        request: SendEmailRequestTypeDef = {
            "FromEmailAddress": envelope.sender,
            "Destination": {"ToAddresses": [envelope.recipient]},
            "Content": {"Raw": {"Data": envelope.content}},
        }
        if envelope.reference:
            request["EmailTags"] = [{"Name": TAG, "Value": envelope.reference}]
        if self._configuration_set:
            request["ConfigurationSetName"] = self._configuration_set
        client = self._ready()
        with permit():
            before_commit()
            return Receipt("Amazon SES", self._call(client, request))

    def _ready(self) -> SESV2Client:
        try:
            return self.client
        except (exceptions.BotoCoreError, ValueError) as error:
            raise Unavailable(f"Amazon SES cannot be used as TENURE_MAIL_URL says ({type(error).__name__}).") from error

    def _call(self, client: SESV2Client, request: SendEmailRequestTypeDef) -> str:
        try:
            answer = client.send_email(**request)
        except exceptions.ClientError as error:
            raise _refusal(error) from error
        except exceptions.ParamValidationError as error:
            raise Permanent("Amazon SES does not take a message of this form.") from error
        except BEFORE as error:
            raise Unavailable(f"Amazon SES cannot be reached ({type(error).__name__}).") from error
        except exceptions.SSLError as error:
            if isinstance(_root(error), ssl.SSLCertVerificationError):
                raise Unavailable("Amazon SES showed a certificate that is not trusted here.") from error
            raise Ambiguous(type(error).__name__) from error
        except Exception as error:
            # A time-out, a broken connection, an answer that cannot be read: it may have been accepted.
            raise Ambiguous(type(error).__name__) from error
        try:
            return answer["MessageId"]
        except KeyError:
            raise Ambiguous("an answer without a message id") from None

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None


def _refusal(error: exceptions.ClientError) -> Failure | Ambiguous:
    """What an answer that is an error means. Its words are left out: they may quote the address."""
    code = str(error.response.get("Error", {}).get("Code") or "no reason given")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 and status != 503:
        # Something behind the door broke, and nobody says whether before or after the message was taken.
        return Ambiguous(f"{status} {code}")
    if code in ABOUT_THE_MESSAGE:
        return Permanent(f"Amazon SES refused the message for good ({code}).")
    if status >= 500:
        return Unavailable(f"Amazon SES takes no messages now ({status} {code}).")
    return Barred(f"Amazon SES takes no messages of ours now ({status} {code}).")


def _root(error: BaseException) -> BaseException:
    """What botocore wrapped, down to the standard library's own error."""
    inner = getattr(error, "kwargs", {}).get("error") or error.__cause__ or error.__context__
    if isinstance(inner, BaseException) and inner is not error:
        return _root(inner)
    first = error.args[0] if error.args else None
    return _root(first) if isinstance(first, BaseException) else error
