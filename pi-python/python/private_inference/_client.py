"""The client: NumPy arrays in and out."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Type, Union, overload

import numpy as np

from ._native import NativeClient
from ._types import Description, InputWarning, Scored, Stats
from .errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    StrPath = Union[str, "os.PathLike[str]"]
    Prediction = Union[npt.NDArray[np.float64], npt.NDArray[np.int64], int]

__all__ = ["Client"]


class Client:
    """A connection to one model of a server, which never sees what is asked, nor the answer.

    :param url: ``http://HOST:PORT``, or ``https://HOST:PORT`` for TLS.
    :param model: Name of the model; the server's first one if ``None``.
    :param token: What the server knows this client by, where it asks for that; a :class:`~pathlib.Path` names a file that holds it.
    :param ca: Certificate to trust, a PEM file; without it the system's own authorities are trusted.
    :param identity: This client's certificate and its private key, two PEM files, where the server asks for them.
    :param keep_prepared: How many inferences to keep ready in the background, so that a prediction pays the online phase alone.
    :param batch: How many are prepared together; chosen by what is asked for if ``None``.
    :param resize: Whether pixels of another size than the model's are cropped and resized, or refused.
    :param n_retries: How often to try again to connect and to open a session. A prediction is repeated only if nothing of it had
        left, or the server said that it is not available and had answered nothing.
    :param timeout: Seconds after which a server that does not answer is given up with :class:`UnreachableError`, in a call or in the
        midst of a prediction; when connecting, after 10 at the latest.

    May be used by several threads. All calls that wait let other threads run, and end at Ctrl-C: the client stays usable then. Not
    to be carried into a process made by ``fork``. Use it in a ``with`` statement, or call :meth:`close`.
    """

    def __init__(
        self,
        url: str,
        model: Optional[str] = None,
        *,
        token: Union[str, "os.PathLike[str]", None] = None,
        ca: Optional[StrPath] = None,
        identity: Optional[Tuple[StrPath, StrPath]] = None,
        keep_prepared: int = 0,
        batch: Optional[int] = None,
        resize: bool = True,
        n_retries: int = 2,
        timeout: float = 300,
    ) -> None:
        is_file = token is not None and not isinstance(token, str)
        self._native = NativeClient(
            url,
            model,
            token=token if isinstance(token, str) else None,
            token_file=Path(token) if is_file and token is not None else None,
            ca=None if ca is None else Path(ca),
            identity=None if identity is None else (Path(identity[0]), Path(identity[1])),
            keep_prepared=_natural("keep_prepared", keep_prepared),
            batch=None if batch is None else _natural("batch", batch),
            resize=resize,
            n_retries=_natural("n_retries", n_retries),
            timeout=_seconds("timeout", timeout),
        )
        labels, self._opens_logits, self._has_classes = self._native.output()
        self._labels = tuple(labels)
        self._input_shape = tuple(self._native.input_shape())
        self._model = self._native.model()

    @overload
    def predict(self, array: npt.ArrayLike, top: None = None) -> Prediction: ...
    @overload
    def predict(
        self, array: npt.ArrayLike, top: int
    ) -> Union[List[Scored], List[List[Scored]]]: ...
    def predict(
        self, array: npt.ArrayLike, top: Optional[int] = None
    ) -> Union[Prediction, List[Scored], List[List[Scored]]]:
        """Runs the network on one image or a batch.

        Pixels are ``uint8`` of shape (H, W, C), (H, W) or (N, H, W, C); tensors as the network takes them, those of images normalised,
        are ``float32`` of shape (C, H, W) or (N, C, H, W), where H, or H and W, may be left out if they are 1. Each image uses up one prepared inference; what is missing is prepared first, together.

        Returns the logits, ``float64`` of shape (classes,) or (N, classes). From a model that opens the class alone: the class, an
        ``int`` or ``int64`` of shape (N,). With ``top``: the best classes with their labels, the best first; a list of such
        lists for a batch. From a model whose outputs are no classes: these, in place of the logits.

        Warns with :class:`InputWarning` if something was guessed to make the array fit.

        :raises InputError: Nothing was spent. An error that comes later loses the answers of the whole batch.
        """
        if top is not None and _natural("top", top) == 0:
            raise UsageError("top is at least 1")
        if top is not None and not self._has_classes:
            raise UsageError("this model's outputs are no classes, so none is the best; leave top out")
        are_pixels, is_batch, images = _images(array, self._input_shape)
        shape = list(images.shape[1:])
        classes, raw, notes = self._native.predict(are_pixels, shape, images.tobytes())
        for note in notes:
            warnings.warn(note, InputWarning, stacklevel=2)
        logits = np.frombuffer(raw, dtype=np.float64).reshape(len(classes), -1).copy()
        if top is not None:
            scored = [self._best(c, row, top) for c, row in zip(classes, logits) if c is not None]
            return scored if is_batch else scored[0]
        if self._opens_logits:
            return logits if is_batch else logits[0]
        numbers = np.asarray(classes, dtype=np.int64)
        return numbers if is_batch else int(numbers[0])

    def prepare(self, n: int) -> None:
        """Prepares at least ``n`` more inferences, in whole batches. Needs no image."""
        self._native.prepare(_natural("n", n))

    def models(self) -> List[str]:
        """Names of the server's models."""
        return self._native.models()

    def describe(self) -> Description:
        """What the server says about the model, and what a query will cost."""
        facts = self._native.facts()
        for name in ("mean", "std", "labels"):
            facts[name] = tuple(facts[name])
        return Description(**facts)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def labels(self) -> Tuple[str, ...]:
        """The labels by class."""
        return self._labels

    @property
    def n_prepared(self) -> int:
        """Inferences that are ready."""
        return self._native.n_prepared()

    @property
    def last_stats(self) -> Optional[Stats]:
        """What the last answered call of :meth:`predict` cost."""
        stats = self._native.last_stats()
        return None if stats is None else Stats(**stats)

    @property
    def trouble(self) -> Optional[str]:
        """Why preparing in the background does not work at present; it is tried again by itself."""
        return self._native.trouble()

    def close(self) -> None:
        """Ends the sessions in good order. What was prepared and not used is gone. May be called again."""
        self._native.close(True)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        # After an error nobody wants to wait for what is still being prepared.
        self._native.close(error is None)

    def __repr__(self) -> str:
        return f"<private_inference.Client of {self._model!r}>"

    def _best(self, best: int, logits: npt.NDArray[np.float64], top: int) -> List[Scored]:
        if not self._opens_logits:
            return [Scored(best, self._label(best), None)]
        # Stable: of equal logits the lowest class comes first.
        order = np.argsort(-logits, kind="stable")[:top]
        return [Scored(int(c), self._label(int(c)), float(logits[c])) for c in order]

    def _label(self, class_: int) -> str:
        return self._labels[class_] if class_ < len(self._labels) else f"class {class_}"


def _images(array: npt.ArrayLike, wanted_shape: Tuple[int, ...]) -> Tuple[bool, bool, npt.NDArray[Any]]:
    """Whether they are pixels, whether it is a batch, and the images as (N, H, W, C) or (N, C, H, W)."""
    given = np.asarray(array)
    shape = given.shape
    is_batch = given.ndim == 4
    if given.dtype == np.uint8:
        wanted = "(H, W, C), (H, W) or (N, H, W, C)"
        images = given[..., np.newaxis] if given.ndim == 2 else given
        if given.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
            raise InputError(
                f"array: its shape is {shape}, and pixels are taken as {wanted}: array.transpose(1, 2, 0)"
            )
    elif given.dtype.kind == "f" and given.dtype.itemsize == 4:
        wanted = "(C, H, W) or (N, C, H, W)"
        images = given.astype("<f4", copy=False)
        c, h, w = wanted_shape
        # A row of values, or one of each channel, may be given without dimensions of one.
        short = [s for s, fits in (((c, w), h == 1), ((c,), h == w == 1), ((w,), c == h == 1)) if fits]
        if shape != wanted_shape and (shape in short or shape[1:] in short):
            wanted = " or ".join(str(s) for s in short)
            is_batch = shape not in short
            images = images.reshape((-1, c, h, w))
    else:
        advice = {
            "i": "; if these are pixels from 0 to 255: array.astype(numpy.uint8)",
            "u": "; if these are pixels from 0 to 255: array.astype(numpy.uint8)",
            "f": "; if this is a normalised tensor: array.astype(numpy.float32)",
        }
        raise InputError(
            f"array: its type is {given.dtype}; uint8 pixels (H, W, C) and normalised float32 tensors (C, H, W) are taken"
            + advice.get(given.dtype.kind, "")
        )
    if images.ndim == 3:
        images = images[np.newaxis]
    if images.ndim != 4 or images.size == 0:
        raise InputError(
            f"array: its shape is {shape}; an array of {given.dtype} is taken as {wanted}, and not empty"
        )
    return given.dtype == np.uint8, is_batch, images


def _natural(name: str, value: int) -> int:
    try:
        number = value.__index__()
    except AttributeError:
        raise UsageError(f"{name} is a whole number, not {type(value).__name__}") from None
    if not 0 <= number < 1 << 32:
        raise UsageError(f"{name} is between 0 and 4294967295, not {number}")
    return number


def _seconds(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is a number of seconds, not {type(value).__name__}") from None
    if not 0 < number < float("inf"):
        raise UsageError(f"{name} is a number of seconds greater than 0, not {number}")
    return number
