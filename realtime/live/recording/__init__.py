"""Recording of a live session: video, events and snapshots, without delaying the feed and safe against crashes."""
