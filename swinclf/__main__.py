"""`swinclf` and `python -m swinclf`."""

from swinclf.cli.app import main

if __name__ == "__main__":
    main()
