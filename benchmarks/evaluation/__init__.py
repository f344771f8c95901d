"""The results of an evaluation: items, rows, statistics and tables. Nothing here plays an episode."""
