"""WebSocket by Python's library, which shares no code with the gateway.

serve            listens, prints its port, echoes every message; ends with its standard input.
check PORT PATH  talks to such a server through whatever listens on PORT, prints what went wrong.
"""

import asyncio
import http
import os
import random
import sys

import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatusCode

MESSAGE_LEN_MAX = 4 << 20
PATIENCE_S = 20


async def echo(connection, _path=None):
    """Messages come back as they are; some words ask for something else."""
    try:
        async for message in connection:
            if message == "close 4001":
                await connection.close(4001, "as you wish")
            elif message == "fragments":
                await connection.send(["one ", "two ", "three"])
            elif message == "path":
                await connection.send(connection.path)
            elif message == "abort":
                connection.transport.abort()
            else:
                await connection.send(message)
    except ConnectionClosed:
        pass


async def refuse(path, _fields):
    """An ordinary response instead of an upgrade."""
    if "refuse" in path:
        return http.HTTPStatus.FORBIDDEN, [("X-Reason", "refused")], b"not you\n"
    return None


async def serve():
    """Until standard input ends."""
    server = await websockets.serve(
        echo, "127.0.0.1", 0, process_request=refuse, max_size=MESSAGE_LEN_MAX,
        ping_interval=None, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # Connections may be many: nobody is told.
    os._exit(0)


def connect(port, path):
    """A client."""
    return websockets.connect(
        f"ws://127.0.0.1:{port}{path}", max_size=MESSAGE_LEN_MAX, ping_interval=None,
        open_timeout=PATIENCE_S, close_timeout=PATIENCE_S)


def expect(what, found, expected):
    """One line of what the test reads."""
    if found != expected:
        print(f"{what}: {found!r:.200}, not {expected!r:.200}")


async def check_messages(port, path):
    """Texts, bytes, every length that is written in another way, one million bytes."""
    draw = random.Random(7)
    async with connect(port, path) as peer:
        await peer.send("path")
        expect("path", await peer.recv(), path)
        for length in (0, 1, 125, 126, 127, 65535, 65536, 1_000_000):
            message = draw.randbytes(length)
            await peer.send(message)
            expect(f"{length} bytes", await peer.recv(), message)
        await peer.send("gr\u00fc\u00dfe")
        expect("text", await peer.recv(), "gr\u00fc\u00dfe")


async def check_fragments(port, path):
    """A message in pieces, both ways, with a ping between them."""
    async with connect(port, path) as peer:
        async def pieces():
            for number in range(50):
                if number == 20:
                    await asyncio.wait_for(await peer.ping(), PATIENCE_S)
                yield bytes([number]) * (number * 40)

        await peer.send(pieces())
        whole = b"".join(bytes([number]) * (number * 40) for number in range(50))
        expect("fragments", await peer.recv(), whole)
        await peer.send("fragments")
        expect("their fragments", await peer.recv(), "one two three")


async def check_closing(port, path):
    """Either side begins; code and reason arrive; a cut is no close."""
    peer = await connect(port, path)
    await peer.close(4000, "enough")
    expect("our close", (peer.close_code, peer.close_reason), (4000, "enough"))
    peer = await connect(port, path)
    await peer.send("close 4001")
    await asyncio.wait_for(peer.wait_closed(), PATIENCE_S)
    expect("their close", (peer.close_code, peer.close_reason), (4001, "as you wish"))
    peer = await connect(port, path)
    await peer.send("abort")
    await asyncio.wait_for(peer.wait_closed(), PATIENCE_S)
    expect("a cut", peer.close_code, 1006)


async def check_refusal(port, path):
    """What is no upgrade is passed on as the response that it is."""
    try:
        await connect(port, path + "&refuse=1")
        print("refusal: connected")
    except InvalidStatusCode as refused:
        expect("refusal", (refused.status_code, refused.headers.get("X-Reason")), (403, "refused"))


async def check_pipelined(port, path):
    """Many messages before the first answer, and backpressure of both sides."""
    async with connect(port, path) as peer:
        messages = [random.Random(n).randbytes(n * 37 % 20_000) for n in range(300)]

        async def send():
            for message in messages:
                await peer.send(message)

        sending = asyncio.create_task(send())
        for number, message in enumerate(messages):
            expect(f"message {number}", await peer.recv(), message)
        await sending


async def check(port, path):
    """Everything; an empty output is good."""
    for checks in (check_messages, check_fragments, check_closing, check_refusal, check_pipelined):
        try:
            await asyncio.wait_for(checks(port, path), PATIENCE_S)
        except Exception as error:  # pylint: disable=broad-except
            print(f"{checks.__name__}: {error!r}")


def main():
    """See above."""
    what, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve())
    else:
        asyncio.run(check(int(rest[0]), rest[1]))


main()
