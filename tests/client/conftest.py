"""An apiserver over its store, as processes, for what the client does as a whole."""

from collections.abc import Iterator

import pytest
from tests.embedded import Cluster, cluster, pod

PODS = "/api/v1/namespaces/lab/pods"


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with the pods ``web-0`` and ``db-0`` in the namespace ``lab``."""
    with cluster(tmp_path_factory.mktemp("cluster")) as one:
        one.ask("POST", PODS, pod("web-0", app="web"))
        one.ask("POST", PODS, pod("db-0", app="db"))
        yield one
