"""Patient data stay on this machine, unless their source is switched on by name."""

import asyncio
import ipaddress
import socket
from collections.abc import Collection

import httpx

from medtune.runtime.errors import ConfigError


async def local_address(url: httpx.URL) -> str | None:
    """Return the loopback address that a URL leads to, or None if it leads anywhere else.

    A name is local if all that it resolves to is; what it resolved to is what must be connected
    to, since the next answer may be another: version 4 first, which servers listen on by default.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.host, url.port or 0, type=socket.SOCK_STREAM
        )
    except OSError:  # a name that only a proxy can resolve
        return None
    addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
    if addresses and all(address.is_loopback for address in addresses):
        return str(min(addresses, key=lambda address: address.version))
    return None


def check_permitted(
    source: str,
    url: httpx.URL,
    allow_remote: Collection[str],
    key: str = "endpoint.allow_remote",
) -> None:
    """Check that data of a source may go to an address that is not local.

    Args:
        source: Its name.
        url: The address.
        allow_remote: Names of the sources whose data may.
        key: What `allow_remote` is called in the configuration.

    Raises:
        ConfigError: They may not.
    """
    if source not in allow_remote:
        raise ConfigError(
            key,
            f"data of source {source!r} would leave this machine for {url.host}",
            "use an address of this machine; if the data's license permits it, name the source in "
            f"`{key}`",
        )
