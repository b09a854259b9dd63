"""Benchmarks: each is a runnable module that writes a JSON file with machine, versions, warm-up and repeats."""
