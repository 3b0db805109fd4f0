"""The local servers: real, reachable from here only, and as durable as their owners say."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
import psutil
import psycopg
import pytest
import redis
from botocore.config import Config

from tests.support.time.deadlines import deadline
from workers.adapters.clock_skew import correct_clock_skew
from workers.local import stack as local_stack
from workers.local.errors import EmbeddedServerError
from workers.local.servers import postgres

DEADLINE = 30.0
MESSAGE = b"From: a@tenure.example\r\nTo: b@example.com\r\nSubject: Hello\r\n\r\n.dot\r\nBody\r\n"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "var"
    local_stack.stop(tmp_path / "var", quick=True)


def eventually(condition: Callable[[], bool]) -> bool:
    ends = time.monotonic() + deadline(DEADLINE)
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def database(environment: dict[str, str]) -> psycopg.Connection:
    return psycopg.connect(environment["TENURE_DATABASE_URL"], autocommit=True, connect_timeout=5)


def broker(environment: dict[str, str]) -> redis.Redis:
    return redis.Redis.from_url(environment["TENURE_BROKER_URL"], socket_timeout=5)


def objects(environment: dict[str, str]):
    client = boto3.client(
        "s3",
        endpoint_url=environment["TENURE_S3_ENDPOINT"],
        region_name=environment["TENURE_S3_REGION"],
        aws_access_key_id=environment["TENURE_S3_ACCESS_KEY"],
        aws_secret_access_key=environment["TENURE_S3_SECRET_KEY"],
        config=Config(retries={"total_max_attempts": 1}, read_timeout=10),
    )
    correct_clock_skew(client)
    return client


def mail(environment: dict[str, str]) -> smtplib.SMTP:
    address = urlsplit(environment["TENURE_MAIL_URL"])
    return smtplib.SMTP(address.hostname or "", address.port or 0, local_hostname="test.localhost", timeout=10)


def messages(environment: dict[str, str]) -> list[Path]:
    return sorted(Path(environment["TENURE_INBOX"]).glob("*.eml"))


def write_everywhere(environment: dict[str, str]) -> None:
    with database(environment) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    objects(environment).put_object(Bucket=environment["TENURE_S3_BUCKET"], Key="kept", Body=b"x" * 300_000)
    with mail(environment) as connection:
        connection.sendmail("a@tenure.example", ["b@example.com"], MESSAGE)


def assert_kept(environment: dict[str, str]) -> None:
    with database(environment) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
    body = objects(environment).get_object(Bucket=environment["TENURE_S3_BUCKET"], Key="kept")["Body"].read()
    assert body == b"x" * 300_000
    assert len(messages(environment)) == 1


def tree(pids: dict[str, int]) -> list[psutil.Process]:
    mains = [psutil.Process(pid) for pid in pids.values()]
    return [*mains, *(child for main in mains for child in main.children(recursive=True))]


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(found: list[psutil.Process]) -> bool:
    return eventually(lambda: all(gone(process) for process in found))


def test_every_server_is_real(tmp_path: Path) -> None:
    with local_stack.servers(tmp_path) as environment:
        with database(environment) as connection:
            assert connection.info.server_version // 10000 == 18
            shown = [
                connection.execute(f"SHOW {name}").fetchone()
                for name in ("server_encoding", "timezone", "max_connections")
            ]
            assert shown == [("UTF8",), ("UTC",), ("200",)]
            assert connection.execute("SELECT upper('köhler'), current_user").fetchone() == ("KÖHLER", "tenure")
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'tenure'").fetchone() == (False,)
            connection.execute("CREATE DATABASE copy TEMPLATE tenure")

        client = broker(environment)
        assert client.set("a", "1")
        assert client.info("server")["valkey_version"].startswith("9.")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(port=urlsplit(environment["TENURE_BROKER_URL"]).port or 0).ping()

        store, bucket = objects(environment), environment["TENURE_S3_BUCKET"]
        assert store.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
        store.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        first = store.put_object(Bucket=bucket, Key="k", Body=b"one")["VersionId"]
        store.put_object(Bucket=bucket, Key="k", Body=b"two")
        assert store.get_object(Bucket=bucket, Key="k")["Body"].read() == b"two"
        assert store.get_object(Bucket=bucket, Key="k", VersionId=first)["Body"].read() == b"one"
        with pytest.raises(store.exceptions.NoSuchBucket):
            store.put_object(Bucket="misspelt", Key="k", Body=b"")

        with mail(environment) as connection:
            assert connection.ehlo()[0] == 250
            assert connection.has_extn("smtputf8")
            assert connection.has_extn("8bitmime")
            connection.sendmail("a@tenure.example", ["b@example.com", "c@example.com"], MESSAGE)
        (message,) = messages(environment)
        assert message.read_bytes() == MESSAGE
        envelope = json.loads(message.with_suffix(".json").read_text())
        assert envelope["mail_from"] == "a@tenure.example"
        assert envelope["rcpt_tos"] == ["b@example.com", "c@example.com"]


def test_the_inbox_takes_what_mail_clients_send(tmp_path: Path) -> None:
    with local_stack.servers(tmp_path, names=["inbox"]) as environment:
        with mail(environment) as connection:
            connection.ehlo()
            connection.mail("a@tenure.example")
            connection.rcpt("forgotten@example.com")
            connection.rset()
            for number in range(50):
                connection.sendmail("", [f"{number}@example.com"], MESSAGE)
            connection.sendmail("lúis@tenure.example", ["köhler@example.com"], MESSAGE, ["SMTPUTF8", "BODY=8BITMIME"])
        kept = [json.loads(path.with_suffix(".json").read_text()) for path in messages(environment)]
        assert [envelope["rcpt_tos"] for envelope in kept[:50]] == [[f"{number}@example.com"] for number in range(50)]
        assert kept[0]["mail_from"] == ""
        assert (kept[50]["mail_from"], kept[50]["rcpt_tos"]) == ("lúis@tenure.example", ["köhler@example.com"])

        address = urlsplit(environment["TENURE_MAIL_URL"])
        with socket.create_connection((address.hostname or "", address.port or 0), 10) as raw:
            one = b"MAIL FROM:<p@tenure.example>\r\nRCPT TO:<q@example.com>\r\nDATA\r\n..dot\r\n.\r\n"
            raw.sendall(b"EHLO test.localhost\r\n" + one * 20 + b"QUIT\r\n")
            answers = b"".join(iter(lambda: raw.recv(4096), b""))
        assert answers.count(b"250 2.0.0 kept as ") == 20
        assert len(messages(environment)) == 71
        assert messages(environment)[-1].read_bytes() == b".dot\r\n"
        assert not list(Path(environment["TENURE_INBOX"]).glob("*.tmp"))


def test_killed_servers_come_back_with_their_data(directory: Path) -> None:
    stack = local_stack.start(directory)
    write_everywhere(stack.environment)
    found = tree(stack.processes)
    for process in found:
        process.kill()
    assert all_gone(found)
    again = local_stack.start(directory)
    assert again.environment == stack.environment
    assert not set(again.processes.values()) & set(stack.processes.values())
    assert_kept(again.environment)


def test_objects_acknowledged_before_a_kill_are_whole_after_it(directory: Path) -> None:
    stack = local_stack.start(directory, names=["s3"])
    acknowledged: dict[str, bytes] = {}

    def write(writer: int) -> None:
        store = objects(stack.environment)
        with contextlib.suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            for number in range(10_000):
                key, body = f"{writer}/{number}", os.urandom((10, 5_000, 200_000, 5_000_000)[number % 4])
                store.put_object(Bucket="tenure", Key=key, Body=body)
                acknowledged[key] = body

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for writer in writers:
        writer.start()
    assert eventually(lambda: len(acknowledged) > 30)
    os.kill(stack.processes["s3"], signal.SIGKILL)
    for writer in writers:
        writer.join()
    store = objects(local_stack.start(directory, names=["s3"]).environment)
    for key, body in acknowledged.items():
        assert store.get_object(Bucket="tenure", Key=key)["Body"].read() == body


def test_a_first_start_killed_half_way_does_no_harm(directory: Path) -> None:
    program = "import sys; from pathlib import Path; from workers.local import stack; stack.start(Path(sys.argv[1]))"
    for file in ("PG_VERSION", "base/1/PG_VERSION"):
        with subprocess.Popen([sys.executable, "-c", program, str(directory)]) as parent:
            assert eventually(lambda name=file: bool(list(directory.glob(f"postgres/making.*/data/{name}"))))
            parent.kill()
    with database(local_stack.start(directory, names=["postgres"]).environment) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert [path.name for path in (directory / "postgres").iterdir()] == ["data"]


def test_a_lock_file_that_names_a_stranger_is_no_obstacle(directory: Path) -> None:
    local_stack.start(directory, names=["postgres"])
    local_stack.stop(directory, quick=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lock = directory / "postgres" / "data" / "postmaster.pid"
        lock.write_text(f"{stranger.pid}\n{lock.parent}\n1\n1\n\n127.0.0.1\n1 1\nready\n")
        stack = local_stack.start(directory, names=["postgres"])
        assert stack.processes["postgres"] != stranger.pid
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_stop_leaves_no_process_and_keeps_data_and_ports(directory: Path) -> None:
    # What others of this machine have left behind, who were killed, is not ours.
    before = {path: path.stat().st_ino for path in Path("/tmp").glob("seaweedfs-*.sock")}
    stack = local_stack.start(directory, keep_running=True)
    write_everywhere(stack.environment)
    found = tree(stack.processes)
    assert len(found) > 8
    local_stack.stop(directory)
    assert all(gone(process) for process in found)
    assert local_stack.running(directory) == {}
    ports = json.loads((directory / "ports.json").read_text()).values()
    # weed's gRPC ports are its ports + 10000.
    left = [
        path
        for port in ports
        for n in (port, port + 10_000)
        for path in Path("/tmp").glob(f"seaweedfs-*-{n}.sock")
        if path.stat().st_ino != before.get(path)
    ]
    assert left == []
    local_stack.stop(directory)
    again = local_stack.start(directory)
    assert again.environment == stack.environment
    assert_kept(again.environment)


def test_a_second_start_adopts_what_runs(directory: Path) -> None:
    stack = local_stack.start(directory)
    assert local_stack.start(directory) == stack
    assert local_stack.environment(directory) == stack.environment


def test_one_server_alone_comes_back_on_its_port(directory: Path) -> None:
    stack = local_stack.start(directory)
    broker(stack.environment).set("a", "1")
    os.kill(stack.processes["valkey"], signal.SIGKILL)
    again = local_stack.start(directory, names=["valkey"])
    assert again.environment["TENURE_BROKER_URL"] == stack.environment["TENURE_BROKER_URL"]
    assert broker(stack.environment).get("a") is None
    local_stack.stop(directory, names=["valkey"])
    assert local_stack.running(directory) == {name: pid for name, pid in stack.processes.items() if name != "valkey"}


def test_a_start_right_after_a_kill_keeps_the_ports(directory: Path) -> None:
    stack = local_stack.start(directory, names=["s3", "valkey"])
    for _ in range(3):
        for pid in stack.processes.values():
            os.kill(pid, signal.SIGKILL)
        again = local_stack.start(directory, names=["s3", "valkey"])
        assert again.environment == stack.environment
        assert not set(again.processes.values()) & set(stack.processes.values())
        stack = again


def test_a_server_that_no_longer_answers_is_replaced(directory: Path) -> None:
    stack = local_stack.start(directory, names=["valkey"])
    os.kill(stack.processes["valkey"], signal.SIGSTOP)
    again = local_stack.start(directory, names=["valkey"])
    assert again.processes != stack.processes
    assert broker(again.environment).ping()


def test_a_port_that_was_taken_meanwhile_is_replaced(directory: Path) -> None:
    before = local_stack.start(directory, names=["valkey", "inbox"]).environment
    local_stack.stop(directory)
    with socket.create_server(("127.0.0.1", urlsplit(before["TENURE_BROKER_URL"]).port or 0)):
        after = local_stack.start(directory, names=["valkey", "inbox"]).environment
    assert after["TENURE_BROKER_URL"] != before["TENURE_BROKER_URL"]
    assert after["TENURE_MAIL_URL"] == before["TENURE_MAIL_URL"]
    assert broker(after).ping()


def test_nothing_listens_beyond_loopback(directory: Path) -> None:
    stack = local_stack.start(directory)
    listening = {}
    for process in tree(stack.processes):
        # A PostgreSQL backend may end while it is looked at; those that listen stay.
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    listening[process.name()] = connection.laddr.ip
    assert len(listening) == 4
    assert set(listening.values()) == {"127.0.0.1"}


def test_secrets_are_for_the_owner_alone(directory: Path) -> None:
    local_stack.start(directory, names=["valkey"])
    for name in ("secrets.json", "valkey/valkey.conf"):
        assert (directory / name).stat().st_mode & 0o077 == 0


def test_two_directories_live_side_by_side_even_at_the_end_of_a_long_path(tmp_path: Path) -> None:
    long = tmp_path / ("a folder, with 'much' of a name " * 5) / "var"
    with local_stack.servers(tmp_path / "var") as one, local_stack.servers(long) as other:
        assert one["TENURE_DATABASE_URL"] != other["TENURE_DATABASE_URL"]
        write_everywhere(one)
        write_everywhere(other)
        assert_kept(one)
        assert_kept(other)


def test_servers_are_gone_after_the_body_raised(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"), local_stack.servers(tmp_path):
        found = tree(local_stack.running(tmp_path))
        raise RuntimeError("in the middle")
    assert all_gone(found)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends an orphan on Linux only")
def test_attached_servers_die_with_their_parent(directory: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from workers.local import stack as local_stack;"
        "local_stack.start(Path(sys.argv[1]), fast=True); print('up', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        found = tree(local_stack.running(directory))
        assert len(found) > 8
    finally:
        parent.kill()
        parent.communicate()
    assert all_gone(found)


def test_detached_servers_outlive_their_parent(directory: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from workers.local import stack as local_stack;"
        "local_stack.start(Path(sys.argv[1]), keep_running=True); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(directory)], check=False).returncode == -signal.SIGKILL
    write_everywhere(local_stack.environment(directory))
    assert len(local_stack.running(directory)) == 4


def test_a_stranger_with_a_recorded_pid_is_left_alone(directory: Path) -> None:
    local_stack.start(directory, names=["inbox"])
    local_stack.stop(directory)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        (directory / "run" / "inbox.json").write_text(json.dumps({"pid": stranger.pid, "started": "long ago"}))
        local_stack.stop(directory)
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_lost_passwords_are_told_in_a_sentence(directory: Path) -> None:
    local_stack.start(directory, names=["postgres"], fast=True)
    local_stack.stop(directory)
    (directory / "secrets.json").unlink()
    with pytest.raises(EmbeddedServerError, match="do not open the database"):
        local_stack.start(directory, names=["postgres"], fast=True)
    assert local_stack.running(directory) == {}


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root closes a folder to PostgreSQL")
def test_root_may_install_it_where_nobody_else_may_enter(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone in root's home, or in what mktemp makes: PostgreSQL looks for its programs by access(2)."""
    closed = directory.parent / "closed"
    closed.mkdir(mode=0o700)
    # The programs, and the libraries that the wheel has beside its package.
    package = postgres._binaries().parents[1]
    for folder in (postgres._binaries().parent, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, closed / folder.relative_to(package.parent), symlinks=True)
    monkeypatch.setattr(postgres, "_binaries", lambda: closed / package.name / "pginstall18" / "bin")
    with local_stack.servers(directory, names=["postgres"]) as environment, database(environment) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    shutil.rmtree(closed)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can become someone else")
def test_an_ordinary_user_needs_no_root() -> None:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        launcher = Path(local_stack.__file__).with_name("launch.py")
        # May read what root installed for itself (--enter-closed), and has no other right.
        become = [
            sys.executable,
            str(launcher),
            "--user",
            str(nobody.pw_uid),
            str(nobody.pw_gid),
            "--enter-closed",
            "--",
        ]
        program = (
            "import os, sys; from pathlib import Path; from workers.local import stack; assert os.geteuid() != 0\n"
            "with stack.servers(Path(sys.argv[1])) as environment:\n"
            "    import psycopg; psycopg.connect(environment['TENURE_DATABASE_URL']).close(); print('served')\n"
            "print(stack.running(Path(sys.argv[1])))"
        )
        run = subprocess.run(
            [*become, sys.executable, "-c", program, f"{folder}/var"],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={"PATH": os.environ["PATH"]},
            timeout=deadline(60),
        )
        assert (run.stdout, run.returncode) == ("served\n{}\n", 0), run.stderr
