"""Sessions that another program keeps in Redis or Valkey, a key each (S5): cut to what is left of their day.

A key does not tell when it was made, and a program may put off its end as often as it likes. So the first sweep that
meets a key remembers the time, beside the keys, under a hash of its name; a day later at the latest the key ends. That
is a day after the session began and at most the time between two sweeps more. A sweep forgets the keys that are gone: a
session that is begun again under its old name is a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import redis

from tasks.failpoints import failpoint
from tasks.failures import Permanent, Unavailable
from tasks.ports import Left, Swept
from workers.session_stores import RedisKeys

DAY = timedelta(hours=24)
#: Keys looked at in one script: the server does nothing else meanwhile, for two milliseconds or so.
BATCH = 1_000
#: Seconds after which what a broken-off sweep left behind is gone.
LEFTOVER = 3_600

#: KEYS: first-seen times, those of this sweep, then sessions. ARGV: a day in ms. By the server's own clock.
CUT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ended, cut = 0, 0
for i = 3, #KEYS do
    local ttl = redis.call('PTTL', KEYS[i])
    if ttl ~= -2 then
        local mark = redis.sha1hex(KEYS[i])
        local first = tonumber(redis.call('ZSCORE', KEYS[1], mark) or now)
        local ends = first + ARGV[1]
        if ends <= now then
            redis.call('UNLINK', KEYS[i])
            ended = ended + 1
        else
            local score = string.format('%.0f', first)
            redis.call('ZADD', KEYS[1], 'NX', score, mark)
            redis.call('ZADD', KEYS[2], score, mark)
            if ttl == -1 or now + ttl > ends then
                redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', ends))
                cut = cut + 1
            end
        end
    end
end
return {ended, cut}
"""
#: The same commands, on a key that nobody has: whether this user may.
PROBE = """
redis.call('TIME')
redis.call('PTTL', KEYS[3])
redis.call('PEXPIREAT', KEYS[3], '1')
redis.call('UNLINK', KEYS[3])
redis.call('ZADD', KEYS[2], 1, 'probe')
redis.call('ZSCORE', KEYS[1], 'probe')
redis.call('DEL', KEYS[2])
return 1
"""


class RedisSessions:
    """The port `tasks.ports.SessionStore` over keys of one prefix."""

    def __init__(self, store: RedisKeys) -> None:
        self.name = store.name
        self._prefix = store.prefix
        self._client: Any = redis.Redis.from_url(str(store.url), socket_connect_timeout=5, socket_timeout=30)
        self._cut = self._client.register_script(CUT)
        self._seen = f"tenure:sessions:{self.name}"

    def check(self) -> None:
        with self._in_words():
            if self._client.info("cluster").get("cluster_enabled"):
                raise Permanent(f"Session store {self.name!r} is a Redis Cluster, which cannot be swept.")
            self._client.scan(0, match=f"{self._prefix}*", count=1)
            self._client.eval(PROBE, 3, self._seen, f"{self._seen}:{uuid4()}", f"{self._prefix}{uuid4()}")

    def sweep(self, stopping: Callable[[], bool]) -> Swept:
        seen_now = f"{self._seen}:{uuid4()}"
        gone = cut = cursor = 0
        with self._in_words():
            while not stopping():
                cursor, keys = self._client.scan(cursor, match=f"{self._prefix}*", count=BATCH)
                if keys:
                    ended, shortened = self._cut(
                        keys=[self._seen, seen_now, *keys], args=[int(DAY.total_seconds() * 1000)]
                    )
                    gone, cut = gone + ended, cut + shortened
                    self._client.expire(seen_now, LEFTOVER)
                failpoint("sessions.sweep", "after_cut")
                if cursor == 0:
                    self._forget_others(seen_now)
                    return Swept(gone, cut, finished=True)
        return Swept(gone, cut, finished=False)

    def _forget_others(self, seen_now: str) -> None:
        """Keep the times of the keys that this sweep met, and no others."""
        if self._client.exists(seen_now):
            self._client.persist(seen_now)
            self._client.rename(seen_now, self._seen)
        else:
            self._client.delete(self._seen)

    def left(self) -> Left:
        with self._in_words():
            oldest = self._client.zrange(self._seen, 0, 0, withscores=True)
        return Left(datetime.fromtimestamp(oldest[0][1] / 1000, UTC) if oldest else None)

    def count(self) -> int:
        with self._in_words():
            return sum(1 for _ in self._client.scan_iter(match=f"{self._prefix}*", count=BATCH))

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except redis.ResponseError as error:
            if not isinstance(error, redis.exceptions.ReadOnlyError):
                what = "lacks a right" if "perm" in str(error).lower() else f"is refused ({type(error).__name__})"
                raise Permanent(f"Session store {self.name!r}: its user {what}. {self._needs}") from None
            raise Unavailable(f"Session store {self.name!r} cannot be written now: it is a replica.") from None
        except redis.AuthenticationError:
            raise Permanent(f"Session store {self.name!r}: user or password is wrong. {self._needs}") from None
        except (redis.RedisError, OSError) as error:
            raise Unavailable(f"Session store {self.name!r} does not answer ({type(error).__name__}).") from None

    @property
    def _needs(self) -> str:
        return (
            f"It needs SCAN, EVALSHA, TIME, PTTL, PEXPIREAT and UNLINK on the keys {self._prefix}*, and sorted sets, "
            f"RENAME, EXPIRE and DEL on {self._seen}*."
        )
