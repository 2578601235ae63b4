"""Network addresses of callers, and the ranges that a credential may be used from.

An address is personal data: it is compared and forgotten, and stands in no log, event or message.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from cloud.kernel.errors import InvalidFilterError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Range = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_RANGES: Final = 64
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_SITE_BITS: Final = 64


def parse_address(text: object) -> Address:
    """The address that `text` names, in the one form that ranges are compared with.

    An IPv4 address that a socket shows as IPv6 (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2) is that IPv4 address, and the
    zone of a link-local one is left out: both say how the caller was reached, not who it is.

    Raises:
        InvalidFilterError: It is no IPv4 or IPv6 address (place `client_address`).
    """
    try:
        address = ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        address = None
    if address is None:
        # From None: the library's message quotes the value.
        raise InvalidFilterError(place="client_address", reason="must be an IPv4 or IPv6 address") from None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def parse_ranges(texts: Iterable[object]) -> tuple[Range, ...]:
    """The ranges that `texts` name in CIDR notation, sorted, each once.

    Args:
        texts: Such as `192.0.2.0/24`, `2001:db8::/32` or a single address; at most 64.

    Raises:
        InvalidFilterError: One is no range, or has bits set beyond its prefix (place `ip_ranges`).
    """
    ranges = {_range(text) for text in texts}
    if len(ranges) > MAX_RANGES:
        raise InvalidFilterError(place="ip_ranges", reason=f"must be at most {MAX_RANGES} ranges")
    return tuple(sorted(ranges, key=lambda one: (one.version, int(one.network_address), one.prefixlen)))


def within(ranges: Iterable[Range], address: Address) -> bool:
    """Whether one of the ranges holds the address; one of the other family never does."""
    return any(address.version == one.version and address in one for one in ranges)


def site_of(address: Address) -> str:
    """What one caller can hardly vary: the address in IPv4, the network of 64 bits in IPv6 (RFC 6177)."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((address, _SITE_BITS), strict=False).network_address)


def _range(text: object) -> Range:
    try:
        found = ipaddress.ip_network(text) if isinstance(text, str) and "%" not in text else None
    except ValueError:
        found = None
    if found is None:
        reason = "must be ranges such as 192.0.2.0/24 or 2001:db8::/32, without bits set beyond the prefix"
        raise InvalidFilterError(place="ip_ranges", reason=reason) from None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        mapped = found.network_address.ipv4_mapped
        assert mapped is not None
        return ipaddress.IPv4Network((mapped, found.prefixlen - _MAPPED.prefixlen))
    return found
