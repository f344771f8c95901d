"""The training loop and its steps. It knows no command line and no report."""
