"""`python -m cluster.cli`: the command line without the installed script `router-r1`."""

from cluster.cli.app import main

if __name__ == "__main__":
    main()
