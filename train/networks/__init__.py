"""The networks that can be trained, one file per network, and their registry."""
