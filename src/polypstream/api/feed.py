"""Public function that follows a live feed."""

from typing import TYPE_CHECKING

from polypstream.api.models import PathLike, kept_on_success

if TYPE_CHECKING:
    from polypstream.realtime.inference.model import Model
    from polypstream.realtime.live.feed import LiveFeed


def live(
    source: PathLike,
    *,
    model: "Model | PathLike | None" = None,
    operating_point: str | None = None,
    threshold: float | None = None,
    fade_ms: float = 250.0,
    loop: bool = False,
) -> "LiveFeed":
    """Follow polyps in a live feed: `with polypstream.live(...) as feed: for shown in feed: ...`.

    Every frame of the source is yielded immediately. Inference runs on the newest frame available, and contours follow
    the tissue to the displayed frame.

    Args:
        source: A capture device (`/dev/video0`), an `rtsp://`, `udp://`, `tcp://` or `http://` address, or a file,
            which is played in real time.
        model: A loaded model, an ONNX file, or None for the network of the package.
        operating_point: Name of one of the model's operating points, such as `sensitive` (more polyps) or `specific`
            (fewer false alarms); None for its first.
        threshold: Probability from which a pixel is polyp, without a minimum peak; None for the operating point's.
        fade_ms: Time in milliseconds after which a marker without new inference disappears.
        loop: Play a file again when it ends.

    Returns:
        A context manager and iterable of frames: `shown.image` is uint8 RGB (H, W, 3), `shown.polyps` what is marked
        on it, `shown.status` whether the markers can be relied on.

    Raises:
        SourceError: The file is missing or is not a video. A lost device or network source raises nothing.
        ConfigError: The address, operating point or threshold is invalid.
    """
    from polypstream.realtime.live.feed import open_feed
    from polypstream.realtime.live.sources import AtEnd, SourceConfig, source_from_address
    from polypstream.scheduling import INFERENCE_NICENESS, live_inference_threads

    feed_source = source_from_address(str(source), SourceConfig(at_end=AtEnd.LOOP if loop else AtEnd.STOP))
    with kept_on_success(model, threads=live_inference_threads(), niceness=INFERENCE_NICENESS) as (network, is_own):
        return open_feed(
            feed_source,
            network,
            closes_model=is_own,
            operating_point=operating_point,
            threshold=threshold,
            fade_ms=fade_ms,
        )
