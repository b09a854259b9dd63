"""Live feeds: outlines polyps without delaying the video, and shows when the markers are not reliable."""
