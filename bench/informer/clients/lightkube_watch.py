"""lightkube's list and watch: ``python -m bench.informer.clients.lightkube_watch SERVER LAST``."""

import sys

from lightkube import Client, KubeConfig
from lightkube.config.models import Cluster, User
from lightkube.resources.core_v1 import Pod

from bench.informer.clients import said


def main(server: str, last: str) -> None:
    client = Client(config=KubeConfig.from_one(cluster=Cluster(server=server), user=User()))
    listed = client.list(Pod, namespace="*")
    versions = dict(name_and_version(pod) for pod in listed)
    said.synced()
    changes = 0
    for event, pod in client.watch(Pod, namespace="*", resource_version=listed.resourceVersion):
        name, version = name_and_version(pod)
        versions[name] = version
        changes += event == "MODIFIED"
        if version == last:
            said.done(events=changes, calls=changes, last=last, versions=versions.items())
            return


def name_and_version(pod: Pod) -> tuple[str, str]:
    metadata = pod.metadata
    assert metadata is not None
    assert metadata.name is not None
    assert metadata.resourceVersion is not None
    return metadata.name, metadata.resourceVersion


if __name__ == "__main__":
    main(*sys.argv[1:])
