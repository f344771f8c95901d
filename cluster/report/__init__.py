"""HTML pages of runs, evaluations and frontiers. They read folders and change nothing."""
