"""Recordings of a live feed that neither hold it up nor are lost in a crash: pictures, events, snapshots."""
