"""A drop in the host's own OUTPUT: what it sends is gone, what it gets still arrives."""

import asyncio

from tests.inside import inside
from tests.lab.hosts.test_network import built, listen, reaches

from unblink.lab.hosts.netfilter import drop_output


@inside
async def test_what_the_host_sends_is_dropped_until_it_ends() -> None:
    net, gateway, writer, apiserver = await built()
    async with await listen(apiserver):
        await asyncio.to_thread(drop_output, gateway, apiserver.address, True)
        assert not await reaches(gateway, apiserver, within_s=0.5)
        assert await reaches(writer, apiserver)
        await asyncio.to_thread(drop_output, gateway, apiserver.address, False)
        assert await reaches(gateway, apiserver)
    await net.close()
