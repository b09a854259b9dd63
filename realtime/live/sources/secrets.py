"""Addresses and errors in words that may be shown and logged: without user names, passwords and tokens."""

import socket

import av

_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "the connection was refused: nothing serves at this address"),
    (ConnectionResetError, "the connection was cut by the other side"),
    (BrokenPipeError, "the connection was cut by the other side"),
    (socket.gaierror, "the host name is not known"),
    (FileNotFoundError, "it is not there"),
    (PermissionError, "access is not permitted"),
    (av.HTTPUnauthorizedError, "the user name or password is wrong"),
    (av.HTTPForbiddenError, "access is not permitted"),
    (av.HTTPNotFoundError, "the server has no stream of this name"),
    (av.InvalidDataError, "what came is no video that FFmpeg can read"),
    (av.ProtocolNotFoundError, "this build of FFmpeg lacks the protocol"),
)


def label_of(address: str) -> str:
    """An address to show: everything up to its last @ is left out, and everything from its first ? or #.

    A password may hold any character, even those that should be escaped, so that more is cut rather than less.
    """
    scheme, separator, rest = address.partition("://")
    shown = rest.rpartition("@")[2]
    for mark in "?#":
        shown = shown.partition(mark)[0]
    return f"{scheme}{separator}{shown}" if separator else address


def reason_of(error: BaseException) -> str:
    """Why a connection failed or ended, on one line. FFmpeg's own texts may name the address: they are not used."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, av.FFmpegError | OSError) and error.strerror:
        return error.strerror  # the system's words for the number, never an address
    return "the connection failed"
