"""Classify images on a server that never sees them.

>>> from private_inference import Client
>>> with Client("https://models.example.com:50051") as client:
...     logits = client.predict(pixels)
"""

from ._client import Client
from ._types import Description, InputWarning, Scored, Stats
from .errors import (
    InputError,
    LocalError,
    PrivateInferenceError,
    ProtocolError,
    QuotaError,
    RefusedError,
    TlsError,
    UnreachableError,
    UsageError,
    VersionError,
)

__all__ = [
    "Client",
    "Description",
    "InputError",
    "InputWarning",
    "LocalError",
    "PrivateInferenceError",
    "ProtocolError",
    "QuotaError",
    "RefusedError",
    "Scored",
    "Stats",
    "TlsError",
    "UnreachableError",
    "UsageError",
    "VersionError",
]
