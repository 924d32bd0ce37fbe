"""A way to a server on this machine that takes time, for machines whose kernel has no netem.

    python tests/bench/delayed.py PORT SERVER_PORT SECONDS

What comes to PORT goes on to SERVER_PORT after half of so many seconds, and back after the other half; a new connection
takes all of them first. How much goes through at a time is not limited.
"""

import asyncio
import contextlib
import sys

PIECE = 1 << 18
# Pieces on the way.
MOST = 256


async def _take(reader: asyncio.StreamReader, pieces: "asyncio.Queue[tuple[float, bytes]]", delay: float) -> None:
    piece = b"-"
    while piece:
        piece = b""
        with contextlib.suppress(OSError):
            piece = await reader.read(PIECE)
        await pieces.put((asyncio.get_running_loop().time() + delay, piece))


async def _give(pieces: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    while True:
        due, piece = await pieces.get()
        await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0))
        with contextlib.suppress(OSError, RuntimeError):
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()


async def _way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST)
    await asyncio.gather(_take(reader, pieces, delay), _give(pieces, writer))


async def serve(port: int, server_port: int, seconds: float) -> None:
    """Serve until cancelled."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        try:
            others, to_others = await asyncio.open_connection("127.0.0.1", server_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_way(reader, to_others, seconds / 2), _way(others, writer, seconds / 2))
        for one in (writer, to_others):
            one.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=500)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
