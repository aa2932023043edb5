"""``python -m fabella`` is ``fabella``."""

from fabella.cli.main import main

if __name__ == "__main__":
    main()
