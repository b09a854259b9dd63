"""`python -m polypstream`: the same as the `polypstream` command."""

from polypstream.cli import main

if __name__ == "__main__":
    main()
