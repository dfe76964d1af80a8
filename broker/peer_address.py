"""Where somebody calls from: an IPv4 address also where a dual-stack socket shows it as a mapped IPv6 one. Pure."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address


# Of the process on purpose: the answer hangs on the text alone, and the number is bounded.
@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address:
    """Return the address that a socket spells as `text`. Raises: ValueError."""
    return unmapped(ip_address(text))


def unmapped(address: Address) -> Address:
    """Return the address that is meant, however it is spelled."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
