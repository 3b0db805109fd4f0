"""A mail server that takes everything, as fast as Python can: `python -m benchmarks.sink` prints its port."""

from __future__ import annotations

import socket
import sys
from threading import Thread

_ANSWERS = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}


def serve(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(b"220 sink\r\n")
    waiting = b""
    in_message = False
    while data := client.recv(262_144):
        waiting += data
        answers = b""
        while True:
            end = b"\r\n.\r\n" if in_message else b"\r\n"
            at = waiting.find(end)
            if at < 0:
                break
            line, waiting = waiting[:at], waiting[at + len(end) :]
            if in_message:
                answers += b"250 taken\r\n"
                in_message = False
            else:
                answers += _ANSWERS.get(line[:4].upper(), b"250 ok\r\n")
                in_message = line[:4].upper() == b"DATA"
        if answers:
            client.sendall(answers)


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sys.stdout.write(f"port {listening.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        client, _ = listening.accept()
        Thread(target=serve, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main()
