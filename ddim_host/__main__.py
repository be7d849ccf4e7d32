"""`python -m ddim_host`, the same as the command `ddim-host`."""

from ddim_host.cli import main

if __name__ == "__main__":
    main()
