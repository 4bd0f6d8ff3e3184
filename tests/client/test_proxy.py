from unblink.client.proxy import Proxy


def test_its_repr_holds_no_secret() -> None:
    assert "hush" not in repr(Proxy("http", "proxy.test", 3128, "Basic hush"))
