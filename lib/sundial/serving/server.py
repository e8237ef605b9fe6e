"""The model server as a process: ``sundial serve``, or ``python -m sundial.serving.server --pipeline payments``."""

from __future__ import annotations

import argparse
import errno
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sundial.errors import PortInUseError, ServiceError, SundialError
from sundial.serving.board import Board, Seat
from sundial.serving.process import limit_threads, raise_file_limit, stopping
from sundial.serving.workers import Workers, listen_beside, prepare
from sundial.settings import Settings, load_settings

if TYPE_CHECKING:  # numpy is loaded after its threads are limited
    from sundial.serving.sources import ModelSource

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 5


def bind(host: str, port: int) -> socket.socket:
    """Take a port.

    Parameters
    ----------
    host : str
        Address or name.
    port : int
        0 for any that is free.

    Returns
    -------
    socket
        Not yet listening.

    Raises
    ------
    PortInUseError
        When another process listens there.
    ServiceError
        When the address cannot be bound for another reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ServiceError(f"{host!r} is not an address of this machine: {error}", hint="set SUNDIAL_HOST") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use by another process",
                hint="stop that process, or set SUNDIAL_SERVE_PORT or --port to a free one",
            ) from error
        raise ServiceError(f"port {port} on {host} cannot be used: {error}", hint="take a port above 1023") from error
    bound.set_inheritable(True)
    return bound


def serve(
    pipeline: str,
    settings: Settings | None = None,
    *,
    port: int | None = None,
    source: ModelSource | None = None,
    workers: int | None = None,
) -> None:
    """Run the model server of a pipeline until SIGTERM or SIGINT.

    Requests under way are answered before it ends.

    Parameters
    ----------
    pipeline : str
        Its name.
    settings : Settings, optional
        Read from the environment by default.
    port : int, optional
        ``settings.serve_port`` by default; 0 for any that is free, which the first line of output names.
    source : ModelSource, optional
        Where models come from; the registry by default.
    workers : int, optional
        Processes that answer; ``settings.serve_workers`` by default. One answers in this process, several are watched
        by it.

    Raises
    ------
    PortInUseError
        When another process listens on the port.
    PredictionLogError
        When the prediction log cannot be written.
    ServiceError
        When the workers cannot start.
    """
    limit_threads()
    from sundial.serving.predictions import production_folder
    from sundial.serving.segments import check_writable

    settings = settings or load_settings()
    count = workers or settings.serve_workers
    raise_file_limit()
    listening = bind(settings.host, settings.serve_port if port is None else port)
    if settings.predictions_url is None:  # uvicorn would end without saying why
        check_writable(production_folder(pipeline, settings))
    else:
        from sundial.serving.postgres import connect

        connect(settings.predictions_url.get_secret_value()).close()
    host, number = listening.getsockname()[:2]
    several = f" with {count} workers" if count > 1 else ""
    told = f"serving {pipeline}{several} on http://{host}:{number}"
    if count == 1:
        print(told, flush=True)
        _answer(pipeline, settings, listening, source)
        return
    family = listening.family
    listening.close()  # it only showed that nobody else is there, and which port is free
    board = Board(count)
    with listen_beside(host, number, family):  # keeps the port while workers come and go
        prepare()

        def work(worker: int, ready: Callable[[], None]) -> None:
            with listen_beside(host, number, family) as own:
                _answer(pipeline, settings, own, source, Seat(board, worker), ready)

        Workers(count, work).run(lambda: print(told, flush=True))


def _answer(
    pipeline: str,
    settings: Settings,
    listening: socket.socket,
    source: ModelSource | None,
    seat: Seat | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests in this process."""
    import uvicorn

    from sundial.serving.app import create_app
    from sundial.serving.protocol import BoundedProtocol
    from sundial.serving.sources import RegistrySource

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    app = create_app(pipeline, source or RegistrySource(pipeline, settings), settings, seat=seat)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here asks who called
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    # uvicorn hands the signal on once it is done, which would end the process with an error
    with stopping():
        Server(config).run(sockets=[listening])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the model server from the command line."""
    parser = argparse.ArgumentParser(prog="python -m sundial.serving.server", description=main.__doc__)
    parser.add_argument("--pipeline", required=True, help="folder under notebooks/")
    parser.add_argument("--port", type=int, default=None, help="SUNDIAL_SERVE_PORT or 8010 by default")
    parser.add_argument("--workers", type=int, default=None, help="SUNDIAL_SERVE_WORKERS or 1 by default")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(arguments.pipeline, port=arguments.port, workers=arguments.workers)
    except SundialError as error:
        print(f"sundial: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
