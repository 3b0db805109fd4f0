"""Sessions that another program keeps in Redis or Valkey, a key each (S5): cut to what is left of their day.

A key does not tell when it was made, and a program may put off its end as often as it likes. So the first sweep that
meets a key remembers the time, beside the keys, under a hash of its name; a day later at the latest the key ends. That
is a day after the session began and at most the time between two sweeps more. A sweep forgets the keys that are gone: a
session that is begun again under its old name is a new one.

Where a pattern of the data map says whose a session is, those of a frozen account end at once, and those of an account
under legal hold are copied into Tenure's database while they live (S6): a key in Redis ends by itself, so whoever waits
for its end has nothing to keep, and one that is kept in Redis could still be signed in with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import redis
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.unit_of_work import Database, is_lock_timeout
from models.data_map.map import AccountKeys
from models.sessions import held_session_key, owner
from models.sessions.held_session_key import Copy
from models.sessions.owner import Named
from tasks.engine.failpoints import failpoint
from tasks.failures import Permanent, Unavailable
from tasks.ports.sessions import Left, Swept
from tasks.purge.neighbours import refuse_neighbours
from workers.adapters.sessions.keys import KeyOwners, Matcher, expression
from workers.settings.session_stores import RedisKeys

DAY = timedelta(hours=24)
#: Keys looked at in one script: the server does nothing else meanwhile, for two milliseconds or so.
BATCH = 1_000
#: Seconds after which what a broken-off sweep left behind is gone.
LEFTOVER = 3_600

#: KEYS: first-seen times, those of this sweep, then sessions. ARGV: a day in ms, then, where they were copied, what
#: each session was then (`COPY`): one that has changed since stays until it is copied again. By the server's own clock.
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
        local copied = ARGV[i - 1]
        if ends <= now and (not copied or copied == redis.sha1hex(redis.call('DUMP', KEYS[i]))) then
            redis.call('UNLINK', KEYS[i])
            ended = ended + 1
        else
            local score = string.format('%.0f', first)
            redis.call('ZADD', KEYS[1], 'NX', score, mark)
            redis.call('ZADD', KEYS[2], score, mark)
            if ends > now and (ttl == -1 or now + ttl > ends) then
                redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', ends))
                cut = cut + 1
            end
        end
    end
end
return {ended, cut}
"""
#: KEYS: sessions. Of each its type, its value (of a string; else what DUMP gives) and a hash of all that it is.
COPY = """
local copies = {}
for i, key in ipairs(KEYS) do
    local dump = redis.call('DUMP', key)
    if dump then
        local type = redis.call('TYPE', key).ok
        copies[i] = {type, type == 'string' and redis.call('GET', key) or dump, redis.sha1hex(dump)}
    else
        copies[i] = {}
    end
end
return copies
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
PROBE_COPY = "redis.call('DUMP', KEYS[1]) redis.call('TYPE', KEYS[1]) redis.call('GET', KEYS[1]) return 1"
#: Sessions copied in one script: they may be large.
COPIES = 100


class RedisSessions:
    """The port `tasks.ports.SessionStore` over keys of one prefix."""

    def __init__(self, store: RedisKeys, owners: Callable[[], KeyOwners | None] = lambda: None) -> None:
        """`owners` is what the data map says of them, if it does; asked by `check`."""
        self.name = store.name
        self._prefix = store.prefix
        self._client: Any = redis.Redis.from_url(str(store.url), socket_connect_timeout=5, socket_timeout=30)
        self._cut = self._client.register_script(CUT)
        self._copy = self._client.register_script(COPY)
        self._seen = f"tenure:sessions:{self.name}"
        self._owned = owners
        self._owners: KeyOwners | None = None
        self._matcher: Matcher | None = None

    def check(self) -> None:
        self._owners = self._owned()
        if self._owners is not None:
            for pattern in self._owners.patterns:
                expression(pattern.pattern)
        with self._in_words():
            if self._client.info("cluster").get("cluster_enabled"):
                raise Permanent(f"Session store {self.name!r} is a Redis Cluster, which cannot be swept.")
            self._client.scan(0, match=f"{self._prefix}*", count=1)
            nobodys = f"{self._prefix}{uuid4()}"
            self._client.eval(PROBE, 3, self._seen, f"{self._seen}:{uuid4()}", nobodys)
            if self._owners is not None:
                self._client.eval(PROBE_COPY, 1, nobodys)

    def sweep(self, stopping: Callable[[], bool]) -> Swept:
        seen_now = f"{self._seen}:{uuid4()}"
        gone = cut = cursor = 0
        with self._in_words():
            while not stopping():
                cursor, keys = self._client.scan(cursor, match=f"{self._prefix}*", count=BATCH)
                if keys:
                    ended, shortened = self._batch(keys, seen_now)
                    gone, cut = gone + ended, cut + shortened
                    self._client.expire(seen_now, LEFTOVER)
                failpoint("sessions.sweep", "after_cut")
                if cursor == 0:
                    self._forget_others(seen_now)
                    return Swept(gone, cut, finished=True)
        return Swept(gone, cut, finished=False)

    def end(self, account: AccountKeys) -> int:
        self.check()
        if self._owners is None:
            return 0
        with self._in_words():
            for keys in self._theirs(account):
                self._batch(keys, self._seen)
            return sum(map(len, self._theirs(account)))

    def _theirs(self, account: AccountKeys) -> Iterator[Sequence[bytes]]:
        """The keys of the account's sessions, some at a time."""
        prefix = self._prefix.encode()
        for pattern in self._owners.patterns if self._owners else ():
            cursor, begun = 0, False
            while cursor or not begun:
                begun = True
                cursor, keys = self._client.scan(cursor, match=pattern.of(account), count=BATCH)
                if theirs := [key for key in keys if key.startswith(prefix)]:
                    yield theirs

    def _batch(self, keys: Sequence[bytes], seen_now: str) -> tuple[int, int]:
        """Treat some keys as their accounts demand: how many were ended, and how many cut."""
        if self._owners is None:
            return self._end_or_cut(keys, seen_now)
        with self._deciding(self._owners.tenure) as tenure:
            others: list[bytes] = []
            at_once: list[bytes] = []
            kept: list[tuple[bytes, Named]] = []
            theirs = self._whose(tenure)
            for key in keys:
                named = theirs(key)
                if named is None:
                    others.append(key)
                elif named.held and not named.recorded:
                    kept.append((key, named))
                elif not named.held:
                    at_once.append(key)
            found = {named.keys: named for named in map(theirs, keys) if named is not None}
            for account in found:
                refuse_neighbours(tenure, [each.pattern for each in self._owners.patterns], account)
            # What is ended here is ended before a hold can be placed that would keep it.
            ended, cut = self._end_or_cut(others, seen_now)
            ended += self._end_or_cut(at_once, seen_now, at_once=True)[0]
            copies = self._copied([key for key, _ in kept])
            whole = [(key, named, copies[key]) for key, named in kept if key in copies]
            if whole:
                held_session_key.keep(
                    tenure,
                    self.name,
                    [Copy(named.keys.id, sha256(key).digest(), copy[0], copy[1]) for key, named, copy in whole],
                )
        # The copies are safe.
        for ends in (True, False):
            some = {key: copy[2] for key, named, copy in whole if named.ends is ends}
            more = self._end_or_cut(list(some), seen_now, at_once=ends, copied=list(some.values()))
            ended, cut = ended + more[0], cut + more[1]
        return ended, cut

    @contextmanager
    def _deciding(self, tenure: Database) -> Iterator[Connection]:
        """A transaction in Tenure's database, in which holds are asked for."""
        try:
            with tenure.connection() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '1s'"))
                yield connection
        except DBAPIError as error:
            if is_lock_timeout(error):
                raise Unavailable(
                    f"Session store {self.name!r}: somebody is just placing a hold or exporting; later."
                ) from None
            raise

    def _whose(self, tenure: Connection) -> Matcher:
        named = owner.named(tenure)
        if self._matcher is None or self._matcher.accounts != named:
            self._matcher = Matcher(self._owners.patterns if self._owners else (), named)
        return self._matcher

    def _copied(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, bytes, bytes]]:
        """Type, value and hash of those that are still there."""
        copies: dict[bytes, tuple[str, bytes, bytes]] = {}
        for start in range(0, len(keys), COPIES):
            some = keys[start : start + COPIES]
            for key, copy in zip(some, self._copy(keys=some), strict=True):
                if copy:
                    copies[key] = (copy[0].decode(), copy[1], copy[2])
        return copies

    def _end_or_cut(
        self, keys: Sequence[bytes], seen_now: str, *, at_once: bool = False, copied: Sequence[bytes] = ()
    ) -> tuple[int, int]:
        """End those whose day is over, or all `at_once`; cut the others to what is left of it."""
        if not keys:
            return 0, 0
        day = 0 if at_once else int(DAY.total_seconds() * 1000)
        ended, cut = self._cut(keys=[self._seen, seen_now, *keys], args=[day, *copied])
        return ended, cut

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
            f"It needs SCAN, EVALSHA, TIME, PTTL, PEXPIREAT and UNLINK on the keys {self._prefix}*, where the data map "
            f"has a pattern for them DUMP, TYPE and GET, too, and sorted sets, RENAME, EXPIRE and DEL on {self._seen}*."
        )
