"""`python -m skeldir`, the same as the `skeldir` command."""

from skeldir.cli import main

if __name__ == "__main__":
    main()
