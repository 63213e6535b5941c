"""Entry point for a clone: ``python cli.py fit --config emoji.yaml``. The installed command is ``rece``."""

from rece_lightning.__main__ import main

if __name__ == "__main__":
    main()
