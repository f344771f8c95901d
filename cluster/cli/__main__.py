"""`python -m cluster.cli`: the command line where the console script is not installed."""

from cluster.cli.app import main

if __name__ == "__main__":
    main()
