from tests.lab.apiserver.backend import backend
from tests.lab.apiserver.peers import run


def test_readiness_fails_before_the_end_and_liveness_does_not() -> None:
    async def scenario() -> None:
        async with backend() as api:
            ready = await api.ask("GET", "/readyz")
            assert (ready.status, ready.body) == (200, b"ok")
            api.health.readyz_failing = True
            failing = await api.ask("GET", "/readyz")
            assert failing.status == 500
            assert failing.body.endswith(b"[-]shutdown failed: reason withheld\nreadyz check failed\n")
            assert failing.headers["x-content-type-options"] == "nosniff"
            assert (await api.ask("GET", "/readyz?exclude=shutdown")).status == 200
            assert (await api.ask("GET", "/readyz/shutdown")).status == 500
            assert (await api.ask("GET", "/readyz/etcd")).body == b"ok"
            assert (await api.ask("GET", "/livez")).status == 200
            assert b"[+]ping ok\n" in (await api.ask("GET", "/livez?verbose")).body
            assert (await api.ask("GET", "/readyz/nope")).status == 404

    run(scenario())
