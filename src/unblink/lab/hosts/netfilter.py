"""A drop in a host's own OUTPUT chain, as ``iptables -A OUTPUT -d ADDRESS -j DROP`` makes it, by nfnetlink.

The host's TCP is told of such a drop (the send fails with EPERM), unlike of a drop on a router.
"""

from socket import AF_INET

from pyroute2.nftables.expressions import ipv4addr, verdict
from pyroute2.nftables.main import NFTables

from unblink.lab.hosts.network import Host

TABLE = "unblink"
CHAIN = "output"
NF_DROP = 0


def drop_output(host: Host, destination: str, on: bool) -> None:
    """Begin or end dropping what `host` itself sends to the address `destination`.

    Blocking, and not to be called in a thread that runs an event loop; each change is one nfnetlink batch, so one step.

    Raises:
        pyroute2.netlink.exceptions.NetlinkError: the kernel has no nf_tables or refused the rule.
    """
    with host.entered(), NFTables(nfgen_family=AF_INET) as nft:
        if not on:
            nft.table("del", name=TABLE)
            return
        nft.begin()
        nft.table("add", name=TABLE)
        nft.chain("add", table=TABLE, name=CHAIN, hook="output", type="filter", policy=1)
        nft.rule("add", table=TABLE, chain=CHAIN, expressions=(ipv4addr(dst=destination), verdict(code=NF_DROP)))
        nft.commit()
