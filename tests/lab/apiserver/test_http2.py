import asyncio
from typing import cast

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lab.apiserver.peers import Files, Held, Http2Client, echo, plain, run, serving

from unblink.lab.apiserver.asgi import Receive, Scope, Send
from unblink.lab.apiserver.http2 import Http2
from unblink.lab.apiserver.outlet import Outlet


def test_settings_are_those_of_kube_apiserver(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), Http2Client.open(port, files) as client:
            settings = await client.frame()
            window = await client.frame()
        assert isinstance(settings, SettingsFrame) and isinstance(window, WindowUpdateFrame)
        assert settings.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 100
        assert settings.settings[SettingsFrame.MAX_FRAME_SIZE] == 262_144
        assert settings.settings[SettingsFrame.INITIAL_WINDOW_SIZE] == 262_144
        assert settings.settings[SettingsFrame.MAX_HEADER_LIST_SIZE] == 1_048_896
        assert (window.stream_id, window.window_increment) == (0, 26_148_865)

    run(scenario())


def test_requests_and_pings_are_answered_side_by_side(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), Http2Client.open(port, files) as client:
            client.request(1, "/a%20b?x=1", method="POST", body=b"one ")
            client.request(3, "/c")
            assert (await client.response(3)).body == b"GET /c? "
            assert await client.ping(b"12345678") == b"12345678"
            client.data(1, b"two", end=True)
            response = await client.response(1)
            assert response.headers[":status"] == "200" and "date" in response.headers
            assert response.body == b"POST /a b?x=1 one two"

    run(scenario())


def test_a_large_request_body_gets_its_window_back(files: Files) -> None:
    async def size(scope: Scope, receive: Receive, send: Send) -> None:
        total, more = 0, True
        while more:
            message = await receive()
            total, more = total + len(message["body"]), message["more_body"]
        await plain(send, b"%d" % total)

    async def scenario() -> None:
        async with serving(size, files) as (_, port), Http2Client.open(port, files) as client:
            client.request(1, method="POST", body=b"")
            credit, sent, total = 262_144, 0, 1_000_000
            while sent < total:
                piece = min(credit, 16_384, total - sent)
                if piece:
                    client.data(1, b"x" * piece)
                    sent, credit = sent + piece, credit - piece
                    continue
                frame = await client.until(lambda frame: isinstance(frame, WindowUpdateFrame) and frame.stream_id == 1)
                assert isinstance(frame, WindowUpdateFrame)
                credit += frame.window_increment
            client.data(1, b"", end=True)
            assert (await client.response(1)).body == b"1000000"

    run(scenario())


@pytest.mark.parametrize("how", ["reset", "close", "goaway"])
def test_a_client_that_leaves_cancels_the_application(files: Files, how: str) -> None:
    async def scenario() -> None:
        app = Held()
        async with serving(app, files) as (server, port), Http2Client.open(port, files) as client:
            client.request(1)
            await app.started.wait()
            match how:
                case "reset":
                    client.send(RstStreamFrame(1, error_code=8))
                case "close":
                    client.writer.transport.abort()
                case "goaway":
                    client.send(GoAwayFrame(0))
            await app.ended.wait()
            assert app.cancelled
            await server.idle()

    run(scenario())


def test_a_reader_that_does_not_read_stops_the_application(files: Files) -> None:
    sent = 0

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5_000):
            await send({"type": "http.response.body", "body": b"x" * 700, "more_body": True})
            sent += 700
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> None:
        async with serving(flood, files) as (_, port), Http2Client.open(port, files, window=10_000) as client:
            client.request(1)
            got = 0
            while got < 10_000:
                frame = await client.frame()
                got += len(frame.data) if isinstance(frame, DataFrame) else 0
            await client.ping(b"--------")
            assert got == 10_000
            assert sent <= 10_000 + 65_536 + 700  # the window, and what a stream may keep
            client.send(WindowUpdateFrame(1, window_increment=1 << 25))
            assert got + len((await client.response(1)).body) == 3_500_000

    run(scenario())


def test_goaway_names_the_last_stream_and_open_streams_live_on(files: Files) -> None:
    async def scenario() -> None:
        app = Held()
        async with serving(app, files) as (server, port), Http2Client.open(port, files) as client:
            client.request(5)
            await app.started.wait()
            server.go_away()
            frame = await client.until(lambda frame: isinstance(frame, GoAwayFrame))
            assert isinstance(frame, GoAwayFrame)
            assert (frame.last_stream_id, frame.error_code) == (5, 0)
            client.request(7)
            refused = await client.response(7)
            assert refused.reset == 7  # REFUSED_STREAM: safe to send again elsewhere
            app.tick.set()
            frame = await client.until(lambda frame: isinstance(frame, DataFrame))
            assert isinstance(frame, DataFrame) and frame.data == b"tick\n"
            server.finish()
            rest = await client.response(5)
            assert (rest.reset, rest.body) == (None, b"")
            with pytest.raises(asyncio.IncompleteReadError):
                await client.frame()

    run(scenario())


def test_an_exception_is_a_500_or_a_reset_and_an_error_line(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("token abc")

    async def scenario() -> None:
        async with serving(broken, files) as (_, port), Http2Client.open(port, files) as client:
            client.request(1, "/early")
            early = await client.response(1)
            assert early.headers[":status"] == "500" and b'"InternalError"' in early.body
            client.request(3, "/late")
            assert (await client.response(3)).reset == 2

    run(scenario())
    output = capsys.readouterr().out
    assert output.count('"event":"error"') == 2
    assert '"type":"ValueError"' in output and "test_http2.py:" in output and "abc" not in output


def test_head_has_no_body(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (_, port), Http2Client.open(port, files) as client:
            client.request(1, method="HEAD")
            assert (await client.response(1)).body == b""

    run(scenario())


def test_an_answer_before_the_end_of_the_request_stops_the_sender(files: Files) -> None:
    async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
        await plain(send, b"no", 413)

    async def scenario() -> None:
        async with serving(hasty, files) as (_, port), Http2Client.open(port, files) as client:
            client.request(1, method="POST", body=b"x" * 1000)
            assert (await client.response(1)).headers[":status"] == "413"
            reset = await client.until(lambda frame: isinstance(frame, RstStreamFrame))
            assert isinstance(reset, RstStreamFrame) and reset.error_code == 0
            client.request(3)
            assert (await client.response(3)).body == b"no"

    run(scenario())


def test_what_is_not_http2_ends_the_connection_with_a_goaway(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (server, port), Http2Client.open(port, files) as client:
            client.send(DataFrame(9, data=b"never opened"))
            frame = await client.until(lambda frame: isinstance(frame, GoAwayFrame))
            assert isinstance(frame, GoAwayFrame) and frame.error_code != 0
            with pytest.raises(asyncio.IncompleteReadError):
                await client.frame()
            await server.empty()

    run(scenario())


class InMemory:
    """The transport under an outlet, with h2's own client at the other end."""

    def __init__(self, window: int) -> None:
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        initial = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        self.client.local_settings = h2.settings.Settings(client=True, initial_values=initial)
        self.client.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.ended: list[int] = []

    def write(self, data: bytes) -> None:
        for event in self.client.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.append(event.stream_id)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


@given(
    st.lists(st.lists(st.integers(0, 100_000), max_size=8), min_size=1, max_size=5),
    st.integers(4_000, 70_000),
    st.integers(min_value=0),
)
@settings(max_examples=40)
def test_every_stream_arrives_whole_whatever_the_window(bodies: list[list[int]], window: int, seed: int) -> None:
    sizes = {2 * number + 1: chunks for number, chunks in enumerate(bodies)}

    async def chunked(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        stream_id = int(scope["path"][1:])
        for number, size in enumerate(sizes[stream_id]):
            await send({"type": "http.response.body", "body": bytes([number + seed % 200]) * size, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> None:
        peer = InMemory(window)
        outlet = Outlet(cast(asyncio.Transport, peer), muted=False)
        server = Http2(outlet, chunked, {"client": ("", 0), "server": ("", 0), "state": {}}, lambda: None)
        for stream_id in sizes:
            pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", f"/{stream_id}")]
            peer.client.send_headers(stream_id, pseudo, end_stream=True)
        while len(peer.ended) < len(sizes):
            server.data_received(peer.client.data_to_send())
            await asyncio.sleep(0)
        for stream_id, chunks in sizes.items():
            expected = b"".join(bytes([number + seed % 200]) * size for number, size in enumerate(chunks))
            assert peer.bodies.get(stream_id, b"") == expected
        assert not server.busy

    run(scenario())


def test_a_request_that_crosses_the_goaway_is_refused_and_not_lost(files: Files) -> None:
    async def scenario() -> None:
        async with serving(echo, files) as (server, port), Http2Client.open(port, files) as client:
            client.request(1)
            await client.response(1)
            server.go_away()
            client.request(3)  # sent before the client has read the GOAWAY
            refused = await client.response(3)
            assert refused.goaway is not None and (refused.goaway.last_stream_id, refused.reset) == (1, 7)
            with pytest.raises(asyncio.IncompleteReadError):
                await client.frame()

    run(scenario())


FRAMES = st.builds(
    lambda kind, flags, stream_id, body: (
        len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + body
    ),
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 32]),
    st.sampled_from([0, 1, 2, 3, 5]),
    st.binary(max_size=9) | st.sampled_from([b"\x82\x84\x87\x41\x01x", b"\0" * 4, b"\0" * 8]),
)


@given(st.lists(FRAMES | st.binary(min_size=1, max_size=12), max_size=12))
def test_no_input_raises(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        transport = Discard()
        outlet = Outlet(cast(asyncio.Transport, transport), muted=False)
        connection = Http2(outlet, echo, {"client": ("", 0), "server": ("", 0), "state": {}}, lambda: None)
        for piece in [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SettingsFrame(0).serialize(), *pieces]:
            if not transport.closing:
                connection.data_received(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        connection.closed()
        await asyncio.sleep(0)

    asyncio.run(scenario())


class Discard:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.closing = False

    def write(self, data: bytes) -> None:
        assert data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
