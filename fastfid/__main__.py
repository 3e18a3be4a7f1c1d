"""``python -m fastfid`` is the ``fastfid`` command."""

from fastfid.cli import main

if __name__ == "__main__":
    main()
