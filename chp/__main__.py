"""``python -m chp``."""

from chp.app import main

if __name__ == "__main__":
    main()
