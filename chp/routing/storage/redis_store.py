"""Routes in Redis or Valkey, for any number of proxies.

Under a prefix (``?prefix=``, by default ``chp``) there are five keys:

- ``routes``, a hash: path -> the route as JSON,
- ``activities``, a hash: path -> last activity, where it is later than in the route,
- ``revisions``, a sorted set: path -> number of the batch that brought this activity,
- ``changes``, a stream of bounded length: what was changed, in order. A proxy that was cut off
  reads on where it was; one that has missed more than the stream holds loads everything,
- ``state``, a hash: the position of the last change, the last revision, the format.

Whatever belongs together is written by one script, and so as one step.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import RedisError

from chp.errors import StorageError
from chp.routing.storage.base import Change, Changes, Missed, SharedStore, Snapshot
from chp.routing.storage.redis_url import REPLY_TIMEOUT, connect

FORMAT = b"1"
KEYS = ("state", "routes", "activities", "revisions", "changes")
HEARTBEAT = 1000  # milliseconds in which nothing happens; then the state is compared
READ_AT_ONCE = 100  # entries of the stream
KEPT_CHANGES = 1000  # entries of the stream
LARGEST_CHANGE = 64 * 1024  # bytes in an entry: after a larger one, other proxies load everything

# ARGV: the server's time (ms) after which nobody waits for the answer; number of changes to keep;
# a token; the changes as JSON; then path and route for each, an empty route removes.
# Returns the server's time alone if it is too late; then nothing has changed.
_CHANGE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
if now > tonumber(ARGV[1]) then
    return {now}
end
local previous = redis.call('HGET', KEYS[1], 'position') or ''
local number = (tonumber(string.match(previous, '^%d+')) or 0) + 1
local position = string.format('%d-%s', number, ARGV[3])
for i = 5, #ARGV, 2 do -- the routes first: what the server refuses to keep, it refuses here
    if ARGV[i + 1] == '' then
        redis.call('HDEL', KEYS[2], ARGV[i])
    else
        redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    end
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('ZREM', KEYS[4], ARGV[i])
end
local entry = {KEYS[5], 'MAXLEN', '~', ARGV[2], string.format('%d-0', number),
    'previous', previous, 'position', position, 'changes', ARGV[4]}
local added = redis.pcall('XADD', unpack(entry))
if type(added) == 'table' and added.err then -- something else has written there
    redis.call('DEL', KEYS[5])
    redis.call('XADD', unpack(entry))
end
redis.call('HSET', KEYS[1], 'position', position)
return {previous, position}
"""

# ARGV: the revision that is known; then path and time for each.
_EXCHANGE = """
local revision = tonumber(redis.call('HGET', KEYS[1], 'revision') or 0)
if #ARGV > 1 then
    revision = redis.call('HINCRBY', KEYS[1], 'revision', 1)
end
for i = 2, #ARGV, 2 do
    local known = redis.call('HGET', KEYS[3], ARGV[i]) or ''
    if ARGV[i + 1] > known and redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then
        redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
        redis.call('ZADD', KEYS[4], revision, ARGV[i])
    end
end
local answer = {revision}
for _, path in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. ARGV[1], '+inf')) do
    answer[#answer + 1] = path
    answer[#answer + 1] = redis.call('HGET', KEYS[3], path)
end
return answer
"""


class RedisStore(SharedStore):
    """One table of routes under one prefix."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises :class:`StorageError` for a URL that can't be used."""
        super().__init__(config)
        prefix, self._clients = connect(config["url"])
        self._client = self._clients[0]
        self._keys = [f"{prefix}:{name}" for name in KEYS]
        self._state, self._routes, self._activities, self._revisions, self._changes = self._keys
        self._change = self._client.register_script(_CHANGE)
        self._exchange = self._client.register_script(_EXCHANGE)
        self._revision = b"0"
        self._clock = 0.0  # the server's time less our monotonic one, in seconds

    async def load(self) -> Snapshot:
        with _errors():
            async with self._client.pipeline(transaction=True) as commands:
                commands.time()
                commands.hsetnx(self._state, "format", FORMAT)
                commands.hmget(self._state, "format", "position", "revision")
                commands.hgetall(self._routes)
                commands.hgetall(self._activities)
                (seconds, microseconds), _, state, routes, activities = await commands.execute()
        self._clock = seconds + microseconds / 1e6 - monotonic()
        await asyncio.sleep(0)
        if state[0] != FORMAT:
            raise StorageError("the keys in Redis have another format: use another ?prefix=, or a newer chp")
        self._revision = state[2] or b"0"
        return Snapshot(
            _text(state[1] or b""),
            {_text(path): _text(data) for path, data in routes.items()},
            {_text(path): _text(moment) for path, moment in activities.items()},
        )

    async def change(self, changes: Changes) -> Change:
        texts = {path: None if data is None else json.dumps(data) for path, data in changes.items()}
        whole = json.dumps(texts)
        arguments: list[str | int] = [
            self._deadline(),
            KEPT_CHANGES,
            secrets.token_hex(4),
            whole if len(whole) <= LARGEST_CHANGE else "",
        ]
        for path, text in texts.items():
            arguments += (path, text or "")
        with _errors():
            answer = await self._change(keys=self._keys, args=arguments)
            if len(answer) == 1:
                # We do wait: one of the clocks was set, or there is another server by now.
                self._clock = answer[0] / 1000 - monotonic()
                arguments[0] = self._deadline()
                answer = await self._change(keys=self._keys, args=arguments)
        if len(answer) == 1:
            raise StorageError("the change came too late")
        return Change(_text(answer[0]), _text(answer[1]))

    def _deadline(self) -> int:
        return int((monotonic() + self._clock + REPLY_TIMEOUT) * 1000)

    async def watch(self, position: str) -> AsyncGenerator[Change | None, None]:
        cursor: bytes = b"%d-0" % _number(position)
        block: int | None = None  # what is there already comes at once
        while True:
            since = {self._changes: cursor}
            with _errors():
                entries = _entries(
                    await self._client.xread(cast(Any, since), count=READ_AT_ONCE, block=block)
                )
                if not entries:
                    # Did nothing happen, or is this another history than the one that we know?
                    async with self._client.pipeline(transaction=True) as commands:
                        commands.time()
                        commands.hget(self._state, "position")
                        commands.xread(cast(Any, since), count=READ_AT_ONCE)
                        (seconds, microseconds), state, more = await commands.execute()
                    self._clock = seconds + microseconds / 1e6 - monotonic()
                    entries = _entries(more)
                    if not entries and _text(state or b"") != position:
                        raise Missed
            block = HEARTBEAT
            for identifier, fields in entries:
                cursor = identifier
                if b"position" in fields:  # or it is none of ours
                    change = _read_change(fields)
                    yield change
                    position = change.position
            if len(entries) < READ_AT_ONCE:
                yield None

    async def exchange_activities(self, times: Mapping[str, str]) -> Mapping[str, str]:
        arguments: list[bytes | str] = [self._revision]
        for path, moment in times.items():
            arguments += (path, moment)
        with _errors():
            revision, *saved = await self._exchange(keys=self._keys, args=arguments)
        self._revision = b"%d" % revision
        texts = [_text(item) for item in saved]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def close(self) -> None:
        with _errors():
            for client in self._clients:
                await client.aclose()


@contextmanager
def _errors() -> Iterator[None]:
    """Turn exceptions of the library into ours."""
    try:
        yield
    except MasterNotFoundError as error:
        # Its text shows how each Sentinel is connected to, in some versions with the password.
        text, _, rest = str(error).partition(" : ")
        reasons = sorted(set(re.findall(r"> - (?:\w+:)?(\w+Error)\b", rest)))
        raise StorageError(f"{text} on any Sentinel: {', '.join(reasons) or 'they do not know it'}") from None
    except (RedisError, OSError) as error:
        raise StorageError(str(error) or type(error).__name__) from error


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return id and fields of each entry that XREAD found in the one stream."""
    return list(answer[0][1]) if answer else []


def _read_change(fields: Mapping[bytes, bytes]) -> Change:
    """Raises :class:`Missed` for an entry that does not say what was changed."""
    try:
        routes = json.loads(fields[b"changes"])
        change = Change(_text(fields[b"previous"]), _text(fields[b"position"]), routes)
    except (KeyError, ValueError) as error:
        raise Missed from error
    if not isinstance(routes, dict):
        raise Missed
    return change


def _number(position: str) -> int:
    number = position.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
