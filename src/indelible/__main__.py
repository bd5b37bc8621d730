"""Run the command line: ``python -m indelible``."""

from indelible.cli import main

if __name__ == "__main__":
    main()
