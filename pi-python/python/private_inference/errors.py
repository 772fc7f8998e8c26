"""What can go wrong, by whose fault it is. Every message says what to do."""

from __future__ import annotations

from typing import ClassVar, Optional

__all__ = [
    "InputError",
    "LocalError",
    "PrivateInferenceError",
    "ProtocolError",
    "QuotaError",
    "RefusedError",
    "TlsError",
    "UnreachableError",
    "UsageError",
    "VersionError",
]


class PrivateInferenceError(Exception):
    """Any error of this package."""

    exit_code: ClassVar[int] = 1
    """What the program ``pi-client`` ends with for the same error."""

    retry_after: Optional[float] = None
    """After how many seconds the same may work; ``None`` if trying again changes nothing."""


class LocalError(PrivateInferenceError):
    """An error of this machine: its disk, its memory."""


class UsageError(PrivateInferenceError, ValueError):
    """A wrong argument, address, token or certificate file; or a client that is closed."""

    exit_code = 2


class UnreachableError(PrivateInferenceError, ConnectionError):
    """The server was not reached, or the connection broke."""

    exit_code = 3


class TlsError(PrivateInferenceError, ConnectionError):
    """TLS failed: certificate, host name, or one side without TLS."""

    exit_code = 4


class RefusedError(PrivateInferenceError):
    """The server refused: token missing, unknown or taken back, no such model."""

    exit_code = 5


class QuotaError(PrivateInferenceError):
    """A quota or limit is used up; the message says for how long."""

    exit_code = 6


class VersionError(PrivateInferenceError):
    """Client and server are of different releases."""

    exit_code = 7


class InputError(PrivateInferenceError, ValueError):
    """An array that cannot be used. Nothing prepared was spent."""

    exit_code = 8


class ProtocolError(PrivateInferenceError):
    """The protocol failed; the server or the network misbehaves."""

    exit_code = 9
