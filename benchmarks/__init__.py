"""Benchmarks: each a module to be run, each a JSON file that states machine, versions, warm-up and repeats."""
