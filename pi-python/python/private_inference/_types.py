"""What the client gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple


class InputWarning(UserWarning):
    """Something was guessed to make an array fit: it was resized, or its colours were changed."""


@dataclass(frozen=True)
class Scored:
    """A class with its label and its logit."""

    class_: int
    label: str
    logit: Optional[float]
    """``None`` if the model opens the class alone."""


@dataclass(frozen=True)
class Stats:
    """What one call of :meth:`Client.predict` cost; sums over its images."""

    n_images: int
    n_prepared_ahead: int
    """Images whose inference was prepared before the call."""
    seconds: float
    """The whole call."""
    waited_seconds: float
    """Before the first online byte of each image, its preparing included where that was not part of the batch's."""
    online_seconds: float
    """From each masked image to its answer."""
    offline_seconds: float
    """The images' share of the seconds in which their batches were prepared."""
    online_bytes: int
    """On the wire, both ways."""
    offline_bytes: int
    """The images' share of the bytes of their batches."""


@dataclass(frozen=True)
class Description:
    """What the server says about a model, and what a query will cost. Bytes are payloads, both ways."""

    model: str
    architecture: str
    dataset: str
    input_shape: Tuple[int, int, int]
    """(C, H, W)."""
    mean: Tuple[float, ...]
    """Of each channel, of pixels scaled to 0..1; empty where the inputs are no images."""
    std: Tuple[float, ...]
    range: Optional[Tuple[float, float]]
    """Least and largest value of a model whose inputs are no images; it has no mean and std."""
    labels: Tuple[str, ...]
    output: str
    """What this client learns of the result: "logits" of all classes, the "class" alone, or "values" that are no classes. The server
    learns nothing of it."""
    relus_kept: int
    relus_total: int
    accuracy: Optional[float]
    """Percent, on the test set, as the server says."""
    server_version: str
    max_batch: int
    """Most inferences that the server prepares together."""
    max_prepared: int
    """Most inferences that the server holds prepared for one session."""
    batch: int
    """How many are prepared together as a rule."""
    setup_bytes: int
    """Once a session."""
    offline_bytes: int
    """Before the image is known, for one prepared alone."""
    offline_bytes_in_batch: int
    """The same for each of ``batch``."""
    online_bytes: int
    """From the image to the answer."""
    offline_round_trips: int
    online_round_trips: int
