import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.apiserver.peers import Files, Http2Client, plain, run, serving

from unblink.lab.apiserver.asgi import Receive, Scope, Send
from unblink.lab.apiserver.auth import (
    AUTHENTICATED,
    BadTokenError,
    authenticated,
    certificate_user,
    load_tokens,
    token_user,
)
from unblink.lab.apiserver.config import ConfigError, User

FILE = 'sekret,admin,1,"system:masters,dev"\n\nother,bob,2\n'


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    user = scope["state"]["user"]
    await plain(send, f"{user.name} {','.join(user.groups)}".encode() if user else b"anonymous")


def test_a_token_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text(FILE)
    assert load_tokens(path) == {
        "sekret": User("admin", ("system:masters", "dev", AUTHENTICATED)),
        "other": User("bob", (AUTHENTICATED,)),
    }


@given(st.dictionaries(st.text("abc,\" '", min_size=1), st.text("xyz, ", min_size=1), max_size=5))
def test_every_quoted_line_is_read(tmp_path_factory: pytest.TempPathFactory, users: dict[str, str]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([token, name, "uid"] for token, name in users.items())
    path = tmp_path_factory.mktemp("tokens") / "tokens.csv"
    path.write_text(text.getvalue())
    assert {token: user.name for token, user in load_tokens(path).items()} == users


@pytest.mark.parametrize(
    ("text", "words"), [("sekret,admin\n", "line 1"), ("a,b,c\n,x,y\n", "line 2"), ("\0\n", ""), (None, "")]
)
def test_a_file_of_another_shape_is_refused_without_its_tokens(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "tokens.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_tokens(path)
    assert str(path) in str(refused.value) and words in str(refused.value) and "sekret" not in str(refused.value)


def test_a_certificate_names_user_and_groups() -> None:
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "me"),))
    assert certificate_user({"subject": subject}) == User("me", ("a", "b", AUTHENTICATED))
    assert certificate_user({"subject": ()}) is None
    assert certificate_user(None) is None


@pytest.mark.parametrize("header", [None, "", "Basic abc", "Bearer", "Bearer  "])
def test_no_bearer_token_is_nobody(header: str | None) -> None:
    assert token_user(header, {}) is None


def test_an_unknown_token_is_an_error_that_does_not_name_it() -> None:
    with pytest.raises(BadTokenError) as error:
        token_user("bearer nope", {"yes": User("x")})
    assert "nope" not in repr(error.value)


def test_over_the_wire(files: Files) -> None:
    async def scenario() -> None:
        app = authenticated(whoami, {"sekret": User("bob", ("dev",))})
        async with serving(app, files) as (_, port):
            async with Http2Client.open(port, files) as client:
                client.request(1, headers=[("authorization", "Bearer sekret")])
                assert (await client.response(1)).body == b"bob dev"
                client.request(3)
                assert (await client.response(3)).body == b"anonymous"
                client.request(5, headers=[("authorization", "Bearer nope")])
                bad = await client.response(5)
                assert (bad.headers[":status"], bad.headers["content-length"]) == ("401", "129")
                assert bad.body.endswith(b'"reason":"Unauthorized","code":401}\n')
            async with Http2Client.open(port, files, certificate=files.client) as client:
                client.request(1, headers=[("authorization", "Bearer nope")])
                assert (await client.response(1)).body == f"admin system:masters,{AUTHENTICATED}".encode()

    run(scenario())
