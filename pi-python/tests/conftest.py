"""A real server with small random models, in a process of its own."""

import os
import signal
import subprocess
import warnings
from pathlib import Path

import pytest

from private_inference import InputWarning

# A program that is started in the background ignores Ctrl-C, and so would all that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("PI_PROGRAMS", REPOSITORY / "target" / "debug"))


class Server:
    """``pi-server serve`` on a free port; it stops when its standard input closes."""

    def __init__(self, models, *flags, log):
        command = [PROGRAMS / "pi-server", "serve", "--listen", "127.0.0.1:0", "--stop-at-eof", "--max-batch", "4"]
        for model in models:
            command += ["--model", model]
        with log.open("w") as said:
            self.process = subprocess.Popen(
                [*command, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), log.read_text()
        self.url = "http://" + line.split()[-1]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of a model that opens logits, of one that opens the class alone, and of one of features to values."""
    folders = {}
    for name, output in {"small": "logits", "silent": "class", "features": "values"}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        subprocess.run([PROGRAMS / "examples" / "random_network", folders[name], name, output], check=True)
    return folders


@pytest.fixture
def serve(models, tmp_path):
    """Starts servers that end with the test."""
    servers = []

    def start(*flags):
        servers.append(Server(models.values(), *flags, log=tmp_path / "server.log"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def url(models, tmp_path_factory):
    """A server for all tests that do not harm it."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = Server(models.values(), "--max-sessions", "40", log=log)
    yield server.url
    server.stop()


@pytest.fixture(autouse=True)
def no_guesses():
    """A test that makes the client guess says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        yield
