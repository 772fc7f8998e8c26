"""Arrays in and out, against what the program pi-client says of the same arrays."""

import json
import subprocess

import numpy as np
import pytest

from conftest import PROGRAMS
from private_inference import Client, InputError, InputWarning, Scored, UsageError

RANDOM = np.random.default_rng(7)
PIXELS = RANDOM.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
TENSORS = RANDOM.uniform(-1.9, 1.9, (2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def client(url):
    with Client(url, "small") as client:
        yield client


def by_program(url, labels, path, array):
    """The logits that the program gets for one array in a file."""
    np.save(path, array)
    command = [PROGRAMS / "pi-client", "infer", "--server", url, "--model", "small", "--top", "5", "--json", path]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    logits = np.zeros(5)
    for label, logit in said["results"][0]["top"]:
        logits[labels.index(label)] = logit
    return logits


@pytest.mark.parametrize("array", [PIXELS[0], TENSORS[0]], ids=["pixels", "tensor"])
def test_an_array_gets_the_logits_that_the_program_gets(client, url, tmp_path, array):
    logits = client.predict(array)
    assert logits.shape == (5,) and logits.dtype == np.float64
    # Each truncation of shares is off by one at most, at random.
    np.testing.assert_allclose(logits, by_program(url, client.labels, tmp_path / "array.npy", array), atol=0.1, rtol=0.05)


def test_a_batch_is_prepared_in_one_flight(url):
    with Client(url, "small") as client:
        alone = np.stack([client.predict(image) for image in PIXELS])
        first = client.last_stats
        assert first.n_images == 1 and first.n_prepared_ahead == 0 and first.offline_bytes > first.online_bytes > 0
        batch = client.predict(PIXELS)
        assert batch.shape == (3, 5) and batch.flags.writeable
        np.testing.assert_allclose(batch, alone, atol=0.1, rtol=0.05)
        stats = client.last_stats
        assert stats.n_images == 3 and stats.n_prepared_ahead == 0 and client.n_prepared == 0
        assert stats.offline_bytes < 3 * first.offline_bytes
        assert 0 < stats.online_seconds < stats.seconds
        client.prepare(2)
        assert client.n_prepared == 3
        client.predict(TENSORS)
        assert client.last_stats.n_prepared_ahead == 2 and client.n_prepared == 1


def test_more_images_than_a_session_holds_are_prepared_in_several_flights(serve):
    # Each of two sessions has 48 MiB for queues, and the rest for inferences.
    for mib in (97, 98, 100, 104, 112, 128, 160):
        server = serve("--prepared-memory", str(mib), "--max-sessions", "2")
        with Client(server.url, "small") as client:
            most = client.describe().max_prepared
            if not 4 <= most < 1000:
                continue
            images = np.repeat(PIXELS[:1], most + 5, axis=0)
            assert client.predict(images).shape == (most + 5, 5)
            assert client.last_stats.n_images == most + 5
            return
    pytest.fail("no memory makes sessions of a size to try")


def test_any_layout_and_byte_order_of_the_same_values(client):
    image, tensor = PIXELS[0], TENSORS[0]
    # A grey image has one channel, which the client makes three.
    with pytest.warns(InputWarning, match="grey"):
        grey = client.predict(image[:, :, 0])
    np.testing.assert_allclose(grey, client.predict(np.repeat(image[:, :, :1], 3, axis=2)), atol=0.1, rtol=0.05)
    turned = np.asfortranarray(image)
    np.testing.assert_allclose(client.predict(turned), client.predict(image), atol=0.1, rtol=0.05)
    np.testing.assert_allclose(client.predict(tensor.astype(">f4")), client.predict(tensor), atol=0.1, rtol=0.05)
    np.testing.assert_allclose(client.predict(tensor[np.newaxis])[0], client.predict(tensor), atol=0.1, rtol=0.05)


def test_the_best_classes_come_with_labels(client):
    best = client.predict(PIXELS[0], top=3)
    logits = client.predict(PIXELS[0])
    assert [s.class_ for s in best[:1]] == [int(np.argmax(logits))]
    assert len(best) == 3 and best[0].logit >= best[1].logit >= best[2].logit
    assert best[0].label == client.labels[best[0].class_]
    batch = client.predict(PIXELS, top=1)
    assert [len(scored) for scored in batch] == [1, 1, 1] and batch[0][0].class_ == best[0].class_


def test_a_model_that_opens_the_class_alone(url):
    with Client(url, "silent") as client:
        assert client.describe().output == "class"
        one, batch = client.predict(PIXELS[0]), client.predict(PIXELS[:2])
        assert isinstance(one, int) and batch.dtype == np.int64 and batch.shape == (2,)
        assert batch[0] == one
        assert client.predict(PIXELS[0], top=5) == [Scored(one, client.labels[one], None)]


def test_other_sizes_are_resized_with_a_warning_or_refused(client, url):
    large = np.zeros((20, 30, 3), dtype=np.uint8)
    with pytest.warns(InputWarning, match="20 x 20"):
        assert client.predict(large).shape == (5,)
    with Client(url, "small", resize=False) as strict, pytest.raises(InputError, match="8 x 8"):
        strict.predict(large)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (PIXELS[0].astype(np.float64), "astype"),
        (PIXELS[0].astype(np.int64), r"astype\(numpy.uint8\)"),
        ("cat.png", r"are taken$"),
        (PIXELS[0].transpose(2, 0, 1), r"transpose\(1, 2, 0\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "empty"),
        (np.zeros(7, np.float32), r"\(C, H, W\)"),
        (np.zeros((3, 8, 9), np.float32), "8"),
        (np.full((3, 8, 8), np.nan, np.float32), "array"),
        ("cat.png", "type"),
        ([[1, 2], [3, 4]], "type"),
    ],
)
def test_a_wrong_array_is_refused_and_spends_nothing(client, array, words):
    client.prepare(1)
    n_prepared = client.n_prepared
    with pytest.raises(InputError, match=words) as caught:
        client.predict(array)
    assert isinstance(caught.value, ValueError) and caught.value.exit_code == 8
    assert client.n_prepared == n_prepared


def test_one_wrong_image_stops_its_batch_before_anything_is_spent(client):
    client.prepare(3)
    n_prepared = client.n_prepared
    bad = np.stack([TENSORS[0], np.full_like(TENSORS[0], np.inf)])
    with pytest.raises(InputError, match=r"array\[1\]"):
        client.predict(bad)
    assert client.n_prepared == n_prepared


def test_numbers_that_make_no_sense(client):
    for what in [lambda: client.predict(PIXELS[0], top=0), lambda: client.prepare(-1), lambda: client.prepare(1.5)]:
        with pytest.raises(UsageError):
            what()


def test_features_in_and_values_out(serve):
    """A model of five features, whose outputs are no classes."""
    with Client(serve().url, model="features") as client:
        said = client.describe()
        assert said.input_shape == (5, 1, 1) and said.range == (-2.0, 2.0) and said.mean == () and said.output == "values"
        rows = np.linspace(-1.5, 1.5, 10, dtype=np.float32).reshape(2, 5)
        both = client.predict(rows)
        assert both.shape == (2, 3)
        np.testing.assert_allclose(client.predict(rows[1]), both[1], atol=0.1)
        with pytest.raises(UsageError, match="no classes"):
            client.predict(rows, top=1)
        with pytest.raises(InputError, match="above -2.01 to 2.01"):
            client.predict(rows + 2)
        with pytest.raises(InputError, match="takes no images"):
            client.predict(np.zeros((4, 4, 3), dtype=np.uint8))
        with pytest.raises(InputError, match="shape"):
            client.predict(np.zeros(6, dtype=np.float32))
