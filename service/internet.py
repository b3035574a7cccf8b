"""The public internet: which IP addresses belong to it."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

# Where no public host is. `is_global` tells of most of them, but of how many depends on the version of Python:
# https://www.iana.org/assignments/iana-ipv4-special-registry, and the same for IPv6.
_IPV4: Final = [
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4"),
    )
]
_IPV6: Final = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_UNICAST: Final = IPv6Network("2000::/3")  # all of the public internet
_NAT64: Final = IPv6Network("64:ff9b::/96")  # how networks of IPv6 alone reach public addresses of IPv4
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)  # the middle of an address that tunnels to an address of IPv4


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet and tunnels to no other one.

    Raises ValueError for what is no IP address.
    """
    if "%" in address:
        return False
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed in _NAT64:
        parsed = IPv4Address(int(parsed) & 0xFFFFFFFF)
    if isinstance(parsed, IPv4Address):
        return parsed.is_global and not any(parsed in network for network in _IPV4)
    if parsed not in _UNICAST or int(parsed) >> 32 & 0xFFFFFFFF in _ISATAP:
        return False
    return parsed.is_global and not any(parsed in network for network in _IPV6)
