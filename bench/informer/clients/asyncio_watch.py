"""kubernetes_asyncio's list and Watch: ``python -m bench.informer.clients.asyncio_watch SERVER LAST``."""

import asyncio
import sys

from kubernetes_asyncio import client, watch

from bench.informer.clients import said


async def main(server: str, last: str) -> None:
    async with client.ApiClient(client.Configuration(host=server)) as api_client:
        api = client.CoreV1Api(api_client)
        listed = await api.list_pod_for_all_namespaces()
        versions = {pod.metadata.name: pod.metadata.resource_version for pod in listed.items}
        said.synced()
        changes = 0
        async with watch.Watch().stream(
            api.list_pod_for_all_namespaces, resource_version=listed.metadata.resource_version
        ) as stream:
            async for event in stream:
                metadata = event["object"].metadata
                versions[metadata.name] = metadata.resource_version
                changes += event["type"] == "MODIFIED"
                if metadata.resource_version == last:
                    said.done(events=changes, calls=changes, last=last, versions=versions.items())
                    return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
