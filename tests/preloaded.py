"""
Programs that start at once, since each is a child of one process that has loaded the package.

To start a Python for each command of the docs takes longer than what the commands do.
So a directory for the PATH holds small programs that hand their arguments, environment and
streams to a server, and end as the child ends that it forks: ``indelible``, and ``script``,
which runs a file of Python. The server itself opens nothing and records nothing.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from typer.main import get_command

from indelible.cli.application import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = sys.argv, os.getcwd(), dict(os.environ)
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    server.shutdown(socket.SHUT_WR)
    (code,) = server.recv(1)
    server.recv(1)  # nothing, once the child is gone
sys.exit(code)
"""


@contextmanager
def programs(*modules: str) -> Iterator[Path]:
    """Keep a directory of programs that have loaded *modules*, inside the block."""
    with tempfile.TemporaryDirectory(prefix="indelible-") as name:
        folder = Path(name)
        address = str(folder / "server")
        (folder / "bin").mkdir()
        for program in ("indelible", "script"):
            file = folder / "bin" / program
            file.write_text(CLIENT.format(python=sys.executable, address=address), "utf-8")
            file.chmod(0o700)
        command = [sys.executable, __file__, address, *modules]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline()
            yield folder / "bin"
            server.terminate()


def serve(address: str) -> int:
    """Start what each connection asks for; only its child returns, with its exit code."""
    indelible = get_command(app)
    gc.collect()
    gc.freeze()  # or each child would copy all pages of memory when it ends
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        print("ready", flush=True)  # noqa: T201 - to whoever started this
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = run(connection, indelible)
    connection.sendall(bytes([code]))
    connection.detach()  # it closes when this process is gone, after all that is done at exit
    return code


def run(connection: socket.socket, indelible: Callable[..., object]) -> int:
    """Be the program that is asked for; return its exit code."""
    request, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while more := connection.recv(1 << 16):
        request += more
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    (program, *sys.argv[1:]), directory, environment = json.loads(request)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    try:
        if Path(program).name == "indelible":
            indelible()
        else:
            del sys.argv[0]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as a program ends that lets it through
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    for each in sys.argv[2:]:
        import_module(each)
    sys.exit(serve(sys.argv[1]))
