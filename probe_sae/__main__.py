"""`python -m probe_sae` is `probe-sae`."""

from probe_sae.cli import main

if __name__ == "__main__":
    main()
