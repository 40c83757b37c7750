"""`python -m asyncgen`."""

from asyncgen.cli.main import main

if __name__ == "__main__":
    main()
