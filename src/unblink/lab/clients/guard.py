"""Where a lab client may send: to loopback, or inside a namespace of the lab.

The lab's addresses (198.18.0.0/15) lead out of the machine when they are used from its own network namespace. So the
lab says in the environment which namespace a process belongs to, and which one it must not be.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

NETNS = "UNBLINK_LAB_NETNS"
OUTER_NETNS = "UNBLINK_LAB_OUTER_NETNS"


class NotInLab(Exception):
    """The address must not be spoken to from here."""


def own_netns() -> str:
    """The inode of this process's network namespace."""
    return str(Path("/proc/self/ns/net").stat().st_ino)


def check(host: str, environment: Mapping[str, str] = os.environ) -> None:
    """Let a loopback address pass, and any other only in the lab's own namespace.

    :raises NotInLab: if the client must not send there.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise NotInLab(f"server {host!r}: a lab client takes an IP address, because a name may lead anywhere") from None
    if address.is_loopback:
        return
    own, lab, outer = own_netns(), environment.get(NETNS), environment.get(OUTER_NETNS)
    if lab is None or outer is None:
        raise NotInLab(
            f"{host} is not loopback and this process is not in the lab: {NETNS} or {OUTER_NETNS} is not set"
        )
    if own != lab:
        raise NotInLab(f"{host} is not loopback and this network namespace ({own}) is not the lab's ({lab})")
    if own == outer:
        raise NotInLab(f"{host} is not loopback and this is the machine's own network namespace ({own})")
