"""`python -m polypstream.cli`."""

from polypstream.cli import main

if __name__ == "__main__":
    main()
