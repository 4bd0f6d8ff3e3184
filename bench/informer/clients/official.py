"""The official client's SharedInformer: ``python -m bench.informer.clients.official SERVER LAST``."""

import sys
import threading
from typing import Any, cast

from kubernetes import client
from kubernetes.informer import MODIFIED, SharedInformer

from bench.informer.clients import said


def main(server: str, last: str) -> None:
    done = threading.Event()
    calls = 0
    configuration = client.Configuration(host=server)
    api = client.CoreV1Api(client.ApiClient(configuration))
    informer = cast(Any, SharedInformer)(list_func=api.list_pod_for_all_namespaces)

    def updated(*objects: Any) -> None:
        nonlocal calls
        calls += 1
        if objects[-1].metadata.resource_version == last:
            done.set()

    informer.add_event_handler(MODIFIED, updated)
    informer.start()
    while not informer.cache.list():
        threading.Event().wait(0.05)
    said.synced()
    done.wait()
    held = [(pod.metadata.name, pod.metadata.resource_version) for pod in informer.cache.list()]
    said.done(events=calls, calls=calls, last=last, versions=held)


if __name__ == "__main__":
    main(*sys.argv[1:])
