"""The places where a live feed can be looked at: a page in a browser, a window, and none."""
