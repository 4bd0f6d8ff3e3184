import pytest

from unblink.client.credentials import KubeconfigError
from unblink.client.proxy import Proxy, choose, parse, split

P = {"HTTPS_PROXY": "http://proxy.example:3128", "HTTP_PROXY": "http://plain.example"}


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://p.example", Proxy("http", "p.example", 80)),
        ("https://p.example/", Proxy("https", "p.example", 443)),
        ("p.example:3128", Proxy("http", "p.example", 3128)),
        ("HTTP://P.example:1", Proxy("http", "p.example", 1)),
        ("http://[2001:db8::1]:8080", Proxy("http", "2001:db8::1", 8080)),
        # RFC 7617's example, and a password that needs percent signs in a URL
        (
            "http://Aladdin:open%20sesame@p.example:1",
            Proxy("http", "p.example", 1, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ),
        ("me@p.example:1", Proxy("http", "p.example", 1, "Basic bWU6")),
    ],
)
def test_a_proxy_is_a_url_or_host_and_port(url: str, proxy: Proxy) -> None:
    assert parse(url, "x") == proxy


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("socks5://p.example:1080", "a socks5 proxy is not supported; give one of http or https"),
        ("socks5h://hush@p.example", "a socks5h proxy is not supported"),
        ("ftp://p.example", "expected a URL such as http"),
        ("http://", "expected a URL"),
        ("http://hush:hush@p.example:hush", "expected a URL"),
        ("http://hush:hush@p.example:0", "expected a URL"),
        ("http://hush:hush@[::1", "expected a URL"),
        ("http://hush:hush@p\u2100.example", "expected a URL"),
        ("http://p.example\r\nhush: x", "expected a URL"),
    ],
)
def test_what_is_no_proxy_is_said_without_its_password(url: str, message: str) -> None:
    with pytest.raises(KubeconfigError, match=f"^clusters: proxy-url: {message}") as caught:
        parse(url, "clusters: proxy-url")
    assert "hush" not in str(caught.value)


def test_a_password_is_in_no_repr() -> None:
    proxy = parse("http://me:hush@p.example", "x")
    assert proxy.authorization == "Basic bWU6aHVzaA=="
    assert "hush" not in repr(proxy)
    assert "bWU6aHVzaA==" not in repr(proxy)


def test_the_servers_scheme_chooses_the_variable_and_capitals_go_first() -> None:
    assert choose("https", "a.example", 443, P) == Proxy("http", "proxy.example", 3128)
    assert choose("http", "a.example", 80, P) == Proxy("http", "plain.example", 80)
    assert choose("https", "a.example", 443, {"HTTP_PROXY": "http://plain.example"}) is None
    assert choose("https", "a.example", 443, {"https_proxy": "small:1"}) == Proxy("http", "small", 1)
    both = {"https_proxy": "small:1", "HTTPS_PROXY": "big:1", "no_proxy": "a.example", "NO_PROXY": "other"}
    assert choose("https", "a.example", 443, both) == Proxy("http", "big", 1)
    assert choose("https", "a.example", 443, {"HTTPS_PROXY": "", "https_proxy": "small:1"}) == Proxy("http", "small", 1)
    assert choose("https", "a.example", 443, {}) is None


def test_a_wrong_variable_is_named_where_it_counts() -> None:
    with pytest.raises(KubeconfigError, match=r"^https_proxy: expected a URL"):
        choose("https", "a.example", 443, {"https_proxy": "ftp://x"})
    assert choose("https", "localhost", 443, {"https_proxy": "ftp://x"}) is None


def test_a_cgi_program_does_not_believe_http_proxy() -> None:
    with pytest.raises(KubeconfigError, match=r"^HTTP_PROXY: not believed in a CGI program"):
        choose("http", "a.example", 80, P | {"REQUEST_METHOD": "GET"})
    assert choose("https", "a.example", 443, P | {"REQUEST_METHOD": "GET"}) is not None


# The rule and most of the cases: golang.org/x/net/http/httpproxy, its documentation of NO_PROXY.
@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "a.example", False),
        ("", "localhost", True),
        ("", "127.0.0.1", True),
        ("", "127.1.2.3", True),
        ("", "::1", True),
        ("", "::ffff:127.0.0.1", True),
        ("", "localhost.example", False),
        ("*", "a.example", True),
        ("x, * ,y", "192.0.2.1", True),
        ("example", "a.example", True),
        ("example", "example", True),
        ("example", "aexample", False),
        (".example", "a.example", True),
        (".example", "example", False),
        ("*.example", "a.b.example", True),
        ("*.example", "example", False),
        ("EXAMPLE", "A.Example", True),
        ("other, a.example ", "a.example", True),
        ("a.example:6443", "a.example", True),
        ("a.example:443", "a.example", False),
        ("a.example:", "a.example", True),
        (".example:6443", "a.example", True),
        (":6443", "a.example", False),
        (",,", "a.example", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1:6443", "192.0.2.1", True),
        ("192.0.2.1:1", "192.0.2.1", False),
        ("192.0.2.1", "192.0.2.10", False),
        ("2.1", "192.0.2.1", True),  # a domain's suffix, as Go takes it
        ("192.0.2.0/24", "192.0.2.77", True),
        ("192.0.2.9/24", "192.0.2.77", True),
        ("192.0.2.0/24", "192.0.3.77", False),
        ("192.0.2.0/255.255.255.0", "192.0.2.77", False),
        ("192.0.2.0/24", "a.example", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8:0::1", True),
        ("[2001:db8::1]:6443", "2001:db8::1", True),
        ("[2001:db8::1]:1", "2001:db8::1", False),
        ("[2001:db8::1]", "2001:db8::1", False),  # no port behind the brackets: Go takes it for a name
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("b\u00fccher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "b\u00fccher.example", True),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(no_proxy: str, host: str, direct: bool) -> None:
    assert (choose("https", host, 6443, P | {"NO_PROXY": no_proxy}) is None) == direct


def test_a_url_without_host_or_with_white_space_is_none() -> None:
    assert split("https://a:1/b") is not None
    for wrong in ("", "a:1", "https://", "https://a b", "https://a/\n", "https://a:65536"):
        assert split(wrong) is None
