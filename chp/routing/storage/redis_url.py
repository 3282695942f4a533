"""From the URL of a Redis server, or of its Sentinels, to a client."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from chp.errors import StorageError

# Seconds.
REPLY_TIMEOUT = 3.0
CONNECT_TIMEOUT = 3.0

_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_SENTINEL = "+sentinel"
_SENTINEL_PORT = 26379
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


def connect(url: str) -> tuple[str, list[Redis]]:
    """Return the prefix of keys that a URL asks for, and clients, which connect when they are used.

    The first is that of the server, any others are for its Sentinels. The caller closes them all.

    Beside those of redis-py: ``valkey://``, and
    ``redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST…]/SERVICE[/DB]`` with the credentials of
    the Sentinels as ``sentinel_username`` and ``sentinel_password``. Raises :class:`StorageError`,
    without anything of the URL.
    """
    try:
        scheme, _, rest = url.partition(":")
        address = urlsplit(f"{_SCHEMES.get(scheme, scheme)}:{rest}")
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        prefix = query.pop("prefix", "chp")
        sentinel_options = {
            name.partition("_")[2]: query.pop(name) for name in _SENTINEL_OPTIONS if name in query
        }
        address = address._replace(query=urlencode(query))
        if address.scheme.endswith(_SENTINEL):
            return prefix, _by_sentinels(address.scheme.removesuffix(_SENTINEL), address, sentinel_options)
        return prefix, [_checked(Redis.from_url(address.geturl(), **_OPTIONS))]
    except ValueError:
        raise StorageError(
            "--storage-url can't be used: it must be like redis://user:password@host:port/database"
        ) from None
    except TypeError as error:
        _, _, name = str(error).rpartition(" ")
        raise StorageError(f"--storage-url: there is no option {name}") from None


def _checked(client: Redis) -> Redis:
    """Raises :class:`TypeError` for an option that there is not, as the first connection would."""
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client


# A lost command is not sent twice: it may have been carried out.
_OPTIONS: dict[str, Any] = {
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": REPLY_TIMEOUT,
    "socket_connect_timeout": CONNECT_TIMEOUT,
}


def _by_sentinels(scheme: str, address: Any, sentinel_options: dict[str, str]) -> list[Redis]:
    credentials, at, hosts = address.netloc.rpartition("@")
    service, _, database = address.path.strip("/").partition("/")
    if not service:
        raise StorageError("--storage-url: the path of a Sentinel URL is the name of the service")
    # Everything but the hosts is that of an ordinary URL.
    options: dict[str, Any] = dict(
        parse_url(f"{scheme}://{credentials}{at}localhost/{database or 0}?{address.query}")
    )
    options.pop("host", None)
    options["ssl"] = options.pop("connection_class", None) is not None
    options = {**_OPTIONS, **options}
    common = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
    sentinels = [_host_and_port(host) for host in hosts.split(",")]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        sentinels, sentinel_kwargs={**common, **sentinel_options}, **options
    )
    return [_checked(sentinel.master_for(service)), *sentinel.sentinels]


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or _SENTINEL_PORT
