"""Push addresses: where a stream is sent, in which format, and how it is displayed without its secrets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import time
from urllib.parse import urlsplit

from polypstream.errors import ConfigError, MissingExtraError
from polypstream.realtime.live.sources.config import label_of, with_credentials

_TRANSPORT_STREAM = {"muxdelay": "0", "muxpreload": "0", "flush_packets": "1", "pat_period": "0.2"}
_FORMATS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "rtsp": ("rtsp", {"rtsp_transport": "tcp"}),
    "rtsps": ("rtsp", {"rtsp_transport": "tcp"}),
    "rtmp": ("flv", {"flvflags": "no_duration_filesize", "flush_packets": "1"}),
    "rtmps": ("flv", {"flvflags": "no_duration_filesize", "flush_packets": "1"}),
    "udp": ("mpegts", _TRANSPORT_STREAM),
    "tcp": ("mpegts", _TRANSPORT_STREAM),
}
WHIP = "whip"
"""`PushAddress.format` of WebRTC servers."""
_WHIP_PREFIX = "whip+"
_WHIP_SCHEMES = ("whip+https", "whip+http")
_KNOWN = f"{', '.join(f'{scheme}://' for scheme in (*_FORMATS, *_WHIP_SCHEMES))} or a folder for HLS"
PLAYLIST = "index.m3u8"
"""Name of the HLS playlist in its folder."""


@dataclass(frozen=True, kw_only=True)
class PushAddress:
    """A target in the terms of FFmpeg's muxers."""

    url: str = field(repr=False)
    """With credentials: never log it."""
    format: str
    """Name of the muxer."""
    options: Mapping[str, str]
    label: str
    """For display: without credentials, queries and stream keys."""
    token: str | None = field(default=None, repr=False)
    """Bearer token, for WHIP."""
    folder: Path | None = None
    """Folder to create, for HLS."""


def push_address(text: str, *, credentials: str | None = None) -> PushAddress:
    """Parse the target of a push.

    Args:
        text: `rtsp(s)://`, `rtmp(s)://`, `udp://host:port` or `tcp://host:port` (MPEG-TS), `whip+https://` or
            `whip+http://` (WebRTC), or a folder, in which an HLS playlist is kept.
        credentials: `user:password`, or only the password; added to addresses, not to folders. For WHIP, the bearer
            token.

    Raises:
        ConfigError: The address is not supported.
        MissingExtraError: WHIP requires the extra [webrtc].
    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        if not text:
            raise ConfigError(f"the address to push to is empty; give {_KNOWN}")
        return _hls(Path(text))
    scheme = scheme.lower()
    if scheme in _WHIP_SCHEMES:
        return _whip(text[len(_WHIP_PREFIX) :], token=credentials)
    if scheme not in _FORMATS:
        raise ConfigError(f"{label_of(text)}: {scheme}:// cannot be pushed to; give {_KNOWN}")
    name, options = _FORMATS[scheme]
    label = label_of(text)
    if name == "flv":  # the last part of its path is the secret stream key
        head, slash, _ = label.removeprefix(f"{scheme}://").rpartition("/")
        label = f"{scheme}://{head}{slash}…" if slash else label
    url = text if credentials is None else with_credentials(text, credentials)
    if scheme == "udp" and "pkt_size=" not in url:
        url += f"{'&' if '?' in url else '?'}pkt_size=1316"
    return PushAddress(url=url, format=name, options=options, label=label)


def _whip(url: str, *, token: str | None) -> PushAddress:
    if find_spec("aiortc") is None:
        raise MissingExtraError("a push over WHIP", "webrtc")
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigError(f"the WHIP address names no host; write it like {_WHIP_PREFIX}https://host/scope/whip")
    # paths and queries contain stream keys at some servers
    label = f"{_WHIP_PREFIX}{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2]}/…"
    return PushAddress(url=url, format=WHIP, options={}, label=label, token=token)


def _hls(folder: Path) -> PushAddress:
    options = {
        "hls_time": "1",
        "hls_list_size": "6",
        "hls_flags": "delete_segments+independent_segments+temp_file",
        "start_number": str(int(time())),  # a player that stays open never takes an old segment for a new one
        "hls_segment_filename": str(folder / "segment_%d.ts"),
    }
    return PushAddress(url=str(folder / PLAYLIST), format="hls", options=options, label=str(folder), folder=folder)
