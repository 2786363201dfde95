"""`python -m robustlm`."""

from robustlm.cli import main

if __name__ == "__main__":
    main()
