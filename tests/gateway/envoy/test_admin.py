"""The admin interface of a real Envoy, and what happens where there is none."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from unblink.chain import Gateway
from unblink.gateway.envoy import admin

if TYPE_CHECKING:
    from tests.gateway.envoy.conftest import Bench


def test_ready_stats_clusters_and_errors(bench: "Bench") -> None:
    apiserver, _ = bench.apiserver("one")
    gateway = bench.envoy(Gateway(), apiserver, name="a-long-name-" * 12)
    assert len(str(gateway.admin)) > 108
    assert bench.client(gateway).answer("/version") == (200, "one")

    async def look() -> None:
        assert await admin.ready(gateway.admin)
        stats = await admin.stats(gateway.admin)
        assert stats["cluster.apiserver.upstream_rq_completed"] == 1
        assert stats["cluster.apiserver.membership_total"] == 1
        clusters = await admin.clusters(gateway.admin)
        assert set(clusters) == {"apiserver", "apiserver-upgrade"}
        (host,) = clusters["apiserver"]
        assert (host.address, host.healthy) == (f"127.0.0.1:{apiserver.port}", True)
        assert host.stats["cx_active"] == 1
        assert len(await admin.get(gateway.admin, "/config_dump")) > 10_000
        with pytest.raises(admin.AdminError, match="404 to /nowhere"):
            await admin.get(gateway.admin, "/nowhere")

    asyncio.run(look())
    assert gateway.admin.stat().st_mode & 0o777 == 0o600


def test_an_envoy_that_is_not_there_is_not_ready(tmp_path: Path) -> None:
    assert not asyncio.run(admin.ready(tmp_path / "admin.sock"))
    assert not asyncio.run(admin.ready(tmp_path / "missing" / "admin.sock"))
    with pytest.raises(FileNotFoundError):
        asyncio.run(admin.get(tmp_path / "admin.sock", "/ready"))


def test_an_envoy_that_has_gone_is_not_ready(bench: "Bench") -> None:
    gateway = bench.envoy(Gateway())
    gateway.process.kill()
    gateway.process.wait()
    assert not asyncio.run(admin.ready(gateway.admin))
