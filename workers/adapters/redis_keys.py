"""Keys of accounts in Redis or Valkey, which the data map names by a pattern (T21)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import redis

from tasks.failures import Permanent, Unavailable

#: Keys looked at in one go: the server does nothing else for a millisecond.
BATCH: Final = 1_000


class RedisKeyStore:
    """The port `tasks.ports.KeyStore`. `name` is what errors call it: a setting, never an address."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._client: Any = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=30)

    def keys(self, pattern: str) -> Iterator[Sequence[bytes]]:
        with self._in_words():
            if self._client.info("cluster").get("cluster_enabled"):
                raise Permanent(f"{self._name} is a Redis Cluster, of which SCAN shows a part: it cannot be purged.")
            cursor, begun = 0, False
            while cursor or not begun:
                begun = True
                cursor, keys = self._client.scan(cursor, match=pattern, count=BATCH)
                if keys:
                    yield keys

    def remove(self, keys: Sequence[bytes]) -> int:
        with self._in_words():
            return int(self._client.unlink(*keys))

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError:
            raise Permanent(f"{self._name}: user or password is wrong.") from None
        except redis.ResponseError as error:
            raise Permanent(
                f"{self._name}: the server refuses to list or remove keys ({type(error).__name__}): its user needs "
                "SCAN, INFO and UNLINK."
            ) from None
        except (redis.RedisError, OSError) as error:
            raise Unavailable(f"{self._name} does not answer ({type(error).__name__}).") from None
