import asyncio
from pathlib import Path

import pytest

from unblink.client import cluster
from unblink.client.kubeconfig import KubeconfigError

KUBECONFIG = """
current-context: a
contexts: [{name: a, context: {cluster: a}}, {name: b, context: {cluster: a}}]
clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]
"""


def test_watchers_of_one_loop_that_name_the_same_share_it_until_the_last_has_left(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)

    async def main() -> None:
        one, two = cluster.join(path, None, insecure=False), cluster.join(path, None, insecure=False)
        other = cluster.join(path, "b", insecure=False)
        assert one is two
        assert other is not one
        assert one.bookmarks("/api/v1/pods") is two.bookmarks("/api/v1/pods")
        assert one.bookmarks("/api/v1/pods") is not one.bookmarks("/api/v1/nodes")
        await cluster.leave(one)
        assert cluster.join(path, None, insecure=False) is two
        await cluster.leave(two)
        await cluster.leave(two)
        anew = cluster.join(path, None, insecure=False)
        assert anew is not two
        await cluster.leave(anew)
        await cluster.leave(other)

    asyncio.run(main())


def test_without_a_configuration_nobody_joins(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(KubeconfigError, match="cannot read"):
            cluster.join(tmp_path / "none", None, insecure=False)

    asyncio.run(main())
