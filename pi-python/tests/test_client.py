"""Connecting, describing, keeping prepared, ending, threads, signals, forks, and every kind of error."""

import importlib.metadata
import importlib.resources
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import private_inference as pi
from conftest import PROGRAMS
from private_inference import Client

IMAGE = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)


def until(what):
    patience = time.monotonic() + 20
    while not what():
        assert time.monotonic() < patience, "it does not happen"
        time.sleep(0.01)


def test_what_the_server_says(url):
    with Client(url) as client:
        assert client.models() == ["small", "silent", "features"] and client.model == "small"
        said = client.describe()
        assert said.input_shape == (3, 8, 8) and said.labels == client.labels and len(said.labels) == 5
        assert said.output == "logits" and said.max_batch == said.batch == 4
        assert 0 < said.relus_kept <= 150 <= said.relus_total
        assert said.offline_bytes > said.offline_bytes_in_batch > said.online_bytes > 0
        assert "small" in repr(client) and client.last_stats is None and client.trouble is None


def test_the_package_is_typed_and_runs_on_every_python_from_3_9_on():
    assert importlib.resources.files("private_inference").joinpath("py.typed").is_file()
    assert importlib.resources.files("private_inference").joinpath("_native.pyi").is_file()
    tags = importlib.metadata.distribution("private-inference").read_text("WHEEL")
    assert "cp39-abi3" in tags
    assert pi.PrivateInferenceError.__subclasses__() and all(hasattr(pi, name) for name in pi.__all__)


def test_inferences_are_kept_prepared(url):
    with Client(url, keep_prepared=2) as client:
        until(lambda: client.n_prepared >= 2)
        client.predict(IMAGE)
        assert client.last_stats.n_prepared_ahead == 1
        until(lambda: client.n_prepared >= 2)


def test_a_closed_client_says_so(url):
    with Client(url) as client:
        client.prepare(1)
    for what in [lambda: client.predict(IMAGE), lambda: client.prepare(1), lambda: client.n_prepared]:
        with pytest.raises(pi.UsageError, match="closed"):
            what()
    client.close()


def test_other_threads_run_while_one_waits(url):
    with Client(url) as client:
        is_done = threading.Event()

        def prepare():
            client.prepare(40)
            is_done.set()

        thread = threading.Thread(target=prepare)
        thread.start()
        n_turns = 0
        while not is_done.is_set():
            n_turns += 1
            time.sleep(0.001)
        thread.join()
        # Under a lock that is held there would be none.
        assert n_turns > 5 and client.n_prepared >= 40
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(client.predict(IMAGE))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 4 and client.n_prepared >= 36


def test_more_than_the_server_holds_is_refused_before_any_of_it(url):
    with Client(url) as client:
        client.prepare(4)
        with pytest.raises(pi.QuotaError, match="holds at most"):
            client.prepare(1_000_000)
        assert client.n_prepared == 4
        client.predict(IMAGE)
        assert client.last_stats.n_prepared_ahead == 1


def test_control_c_ends_a_call_and_leaves_a_client_that_works(url):
    with Client(url) as client:
        # As many as there may be, which takes long.
        n_many = client.describe().max_prepared // 4 * 4
        pressed = []

        def press():
            time.sleep(0.3)
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt):
            client.prepare(n_many)
        assert time.monotonic() - pressed[0] < 5
        assert client.predict(IMAGE).shape == (5,)


def test_control_c_ends_the_whole_program(url):
    program = f"from private_inference import Client\nwith Client({url!r}) as c: n = c.describe().max_prepared // 4 * 4; print('ready', flush=True); c.prepare(n)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT and said.rstrip().endswith("KeyboardInterrupt")


def test_a_program_that_forgets_to_close_ends(url):
    program = f"from private_inference import Client\nc = Client({url!r}, keep_prepared=3); c.prepare(1); print(c.n_prepared > 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True\n" and done.stderr == ""


def test_a_client_is_not_carried_through_a_fork(url):
    program = f"""
import os
from private_inference import Client, UsageError
client = Client({url!r}, keep_prepared=2)
child = os.fork()
if child == 0:
    try:
        client.prepare(1)
    except UsageError as error:
        print(error, flush=True)
        del client
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
client.prepare(1)
client.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    lines = done.stdout.splitlines()
    assert "forked" in lines[0] and lines[1] == "7"


def test_every_error_has_its_class(url, serve, tmp_path):
    def fails(kind, words, *args, **kwargs):
        with pytest.raises(kind, match=words) as caught:
            Client(*args, n_retries=0, **kwargs)
        assert type(caught.value) is kind and isinstance(caught.value, pi.PrivateInferenceError)
        assert "\n" not in str(caught.value)
        return caught.value

    nowhere = fails(pi.UnreachableError, "nothing listens", "http://127.0.0.1:1")
    assert isinstance(nowhere, ConnectionError) and nowhere.retry_after == 0.5 and nowhere.exit_code == 3
    fails(pi.UsageError, "http://", "models.example.com")
    fails(pi.UsageError, "one word", url, token="two words")
    fails(pi.UsageError, "token", url, token=tmp_path / "missing")
    fails(pi.UsageError, "https", url, ca="ca.pem")
    fails(pi.RefusedError, "other", url, "other")
    fails(pi.TlsError, "TLS", url.replace("http:", "https:"))
    fails(pi.UsageError, "timeout", url, timeout=0)
    fails(pi.UsageError, "timeout", url, timeout="soon")
    with pytest.raises(pi.UsageError, match="keep_prepared"):
        Client(url, keep_prepared=-1)

    full = serve("--max-sessions", "1")
    with Client(full.url, n_retries=0) as one, Client(full.url, n_retries=0) as other:
        one.prepare(1)
        with pytest.raises(pi.QuotaError):
            other.prepare(1)
        full.stop()
        with pytest.raises(pi.UnreachableError):
            one.predict(IMAGE)
            one.predict(IMAGE)


def test_a_token_is_asked_for_and_shown_nowhere(serve, tmp_path):
    said = subprocess.run([PROGRAMS / "pi-server", "token", "new", "ada"], check=True, capture_output=True, text=True)
    token = next(line for line in said.stderr.splitlines() if line.startswith("pi-"))
    hashes = tmp_path / "tokens"
    hashes.write_text(said.stdout)
    server = serve("--token-file", hashes)
    with pytest.raises(pi.RefusedError, match="token=") as caught:
        Client(server.url, n_retries=0)
    assert "--token-file" not in str(caught.value)
    file = tmp_path / "mine"
    file.write_text(token + "\n")
    for given in (token, file):
        with Client(server.url, token=given) as client:
            assert client.predict(IMAGE).shape == (5,)
            assert token not in repr(client) + repr(vars(client))


def test_a_server_that_is_silent_is_given_up_after_the_timeout(serve):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        for scheme in ("http", "https"):
            started = time.monotonic()
            with pytest.raises(pi.UnreachableError, match="no answer within 1 s"):
                Client(f"{scheme}://127.0.0.1:{deaf.getsockname()[1]}", timeout=1)
            assert time.monotonic() - started < 3
    server = serve()
    with Client(server.url, keep_prepared=2, timeout=2) as client:
        until(lambda: client.n_prepared >= 2)
        server.process.send_signal(signal.SIGSTOP)
        for what in (lambda: client.predict(IMAGE), client.models):
            started = time.monotonic()
            with pytest.raises(pi.UnreachableError):
                what()
            assert time.monotonic() - started < 4
        client._native.close(False)
