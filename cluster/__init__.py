"""Where things run and the loop that runs them: configuration, command line, placement, tracking, serving."""
