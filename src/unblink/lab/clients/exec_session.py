"""An idle pod exec that never pings: one echo when it opens, then not a byte until SIGTERM, then one more.

WebSocket ``v5.channel.k8s.io``: the first byte of a message is its channel (0 stdin, 1 stdout, 2 stderr, 3 error).
kubectl pings every 5 s, so its idle exec is not idle for the gateway; the Python clients do not.
"""

import asyncio
from urllib.parse import urlencode

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, Request
from wsproto.utilities import ProtocolError

from unblink.client.kubeconfig import Access, KubeconfigError
from unblink.client.transport import plain_reason
from unblink.lab.clients import process
from unblink.lab.log import emit, monotonic_s
from unblink.stream.endings import EndedBy
from unblink.stream.objects import decode_status

SUBPROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, ERROR = b"\x00", 1, 3
OPEN_TIMEOUT_S = 3.0
ECHO_TIMEOUT_S = 3.0
READ_BYTES = 65536


class NotOpened(Exception):
    """There is no exec session; its text says why."""


class ExecSession:
    """One exec of ``cat``. Made by ``open_session``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: WSConnection) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = protocol
        self._output = bytearray()
        self._arrived = asyncio.Event()
        self._said = ""
        self.closed: tuple[EndedBy, str] | None = None
        """Who ended the session; None while it is open."""

    async def read(self) -> None:
        """Take what comes until the session ends; sends nothing but the answers that RFC 6455 asks for."""
        try:
            while self._open():
                self._take_events()
                if self._open():
                    if data := await self._reader.read(READ_BYTES):
                        self._protocol.receive_data(data)
                    else:
                        self.closed = (EndedBy.CONNECTION_LOST, self._why("the peer closed the connection"))
        except ProtocolError as error:
            self.closed = (EndedBy.CONNECTION_LOST, self._why(f"WebSocket: {error}"))
        except OSError as error:
            self.closed = (EndedBy.CONNECTION_LOST, self._why(plain_reason(error)))
        self._arrived.set()

    def _open(self) -> bool:
        return self.closed is None

    def _take_events(self) -> None:
        for event in self._protocol.events():
            match event:
                case BytesMessage(data=data) if data and data[0] == STDOUT:
                    self._output += data[1:]
                    self._arrived.set()
                case BytesMessage(data=data) if data and data[0] == ERROR:
                    self._said = decode_status(0, bytes(data[1:])).message
                case Ping():
                    self._writer.write(self._protocol.send(event.response()))
                case CloseConnection(code=code, reason=reason):
                    self.closed = (EndedBy.SERVER_CLOSED, self._why(f"close frame {int(code)} {reason or ''}".strip()))
                case _:
                    pass

    def _why(self, detail: str) -> str:
        return f"{detail}: {self._said}" if self._said else detail

    async def echo(self, text: bytes) -> bool:
        """Whether ``cat`` gives a line back within the limit."""
        if not self._open():
            return False
        self._output.clear()
        try:
            async with asyncio.timeout(ECHO_TIMEOUT_S):
                self._writer.write(self._protocol.send(BytesMessage(data=STDIN + text)))
                await self._writer.drain()
                while text not in self._output:
                    if not self._open():
                        return False
                    self._arrived.clear()
                    await self._arrived.wait()
        except (TimeoutError, OSError):
            return False
        return True

    def abort(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()


async def open_session(access: Access, namespace: str, pod: str) -> ExecSession:
    """Connect and open the exec.

    :raises NotOpened: if that fails or takes too long.
    """
    tls = access.tls()
    query = urlencode({"command": "cat", "stdin": "true", "stdout": "true"})
    headers = [(b"user-agent", b"unblink-exec")]
    if (token := access.bearer_token()) is not None:
        headers.append((b"authorization", b"Bearer " + token.encode()))
    request = Request(
        host=access.authority,
        target=f"{access.base_path}/api/v1/namespaces/{namespace}/pods/{pod}/exec?{query}",
        subprotocols=[SUBPROTOCOL],
        extra_headers=headers,
    )
    name = (access.tls_server_name or access.host) if tls else None
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(access.host, access.port, ssl=tls, server_hostname=name)
            protocol = WSConnection(ConnectionType.CLIENT)
            writer.write(protocol.send(request))
            await _accepted(reader, protocol)
            return ExecSession(reader, writer, protocol)
    except TimeoutError:
        reason = f"no exec session within {OPEN_TIMEOUT_S:g} s"
    except OSError as error:
        reason = plain_reason(error)
    except (NotOpened, ProtocolError) as error:
        reason = str(error)
    if writer is not None:
        writer.transport.abort()
    raise NotOpened(f"{access.host} port {access.port}: {reason}")


async def _accepted(reader: asyncio.StreamReader, protocol: WSConnection) -> None:
    while True:
        data = await reader.read(READ_BYTES)
        if not data:
            raise NotOpened("the peer closed the connection")
        protocol.receive_data(data)
        match next(protocol.events(), None):
            case AcceptConnection(subprotocol=subprotocol):
                if subprotocol != SUBPROTOCOL:
                    raise NotOpened(f"the server chose subprotocol {subprotocol!r} instead of {SUBPROTOCOL}")
                return
            case RejectConnection(status_code=status):
                raise NotOpened(f"refused with status {status}")
            case _:
                pass


async def first_session(access: Access, namespace: str, pod: str) -> ExecSession:
    """Open the exec, for ten seconds again and again.

    :raises Fatal: if it does not open.
    """
    until_s = monotonic_s() + process.FIRST_CONNECT_S
    while True:
        try:
            return await open_session(access, namespace, pod)
        except NotOpened as error:
            if monotonic_s() > until_s:
                raise process.Fatal(str(error)) from None
        except KubeconfigError as error:
            raise process.Fatal(str(error)) from None
        await asyncio.sleep(process.RETRY_S)


async def say_echo(session: ExecSession, text: bytes) -> None:
    """One echo and its line."""
    started_s = monotonic_s()
    ok = await session.echo(text)
    emit("echo", ok=ok, seconds=round(monotonic_s() - started_s, 6))


async def client(stop: asyncio.Event) -> None:
    """Hold the session until stopped; its end is said when it comes."""
    flags = process.Flags(__doc__)
    flags.add_argument("--pod", default="exec-target")
    options = flags.parse_args()
    access = process.access(options.kubeconfig)
    opened: list[ExecSession] = []

    async def hold() -> None:
        session = await first_session(access, options.namespace, options.pod)
        opened.append(session)
        emit("ready")
        emit("opened")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(say_echo(session, b"opened\n"))
            tasks.create_task(say_closed(session))

    async def say_closed(session: ExecSession) -> None:
        await session.read()
        if session.closed is not None:
            by, detail = session.closed
            emit("closed", by=by, detail=detail)

    holding = asyncio.ensure_future(hold())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((holding, stopping), return_when=asyncio.FIRST_COMPLETED)
    if holding.done():
        holding.result()
    await stopping
    if opened:
        await say_echo(opened[0], b"still here\n")
    holding.cancel()
    await asyncio.wait((holding,))
    for session in opened:
        session.abort()


if __name__ == "__main__":
    process.run(client)
