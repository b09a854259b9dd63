"""`python -m polypstream.cli`."""

from polypstream.cli import main

main()
