"""lightkube's list and watch: ``python -m bench.informer.clients.lightkube_watch SERVER LAST``."""

import sys

from lightkube import Client, KubeConfig
from lightkube.config.models import Cluster, User
from lightkube.resources.core_v1 import Pod

from bench.informer.clients import said


def main(server: str, last: str) -> None:
    client = Client(config=KubeConfig.from_one(cluster=Cluster(server=server), user=User()))
    listed = client.list(Pod, namespace="*")
    versions = {pod.metadata.name: pod.metadata.resourceVersion for pod in listed}
    said.synced()
    changes = 0
    for event, pod in client.watch(Pod, namespace="*", resource_version=listed.resourceVersion):
        versions[pod.metadata.name] = pod.metadata.resourceVersion
        changes += event == "MODIFIED"
        if pod.metadata.resourceVersion == last:
            said.done(events=changes, calls=changes, last=last, versions=versions.items())
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
