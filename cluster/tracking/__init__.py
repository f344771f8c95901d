"""Where a run's numbers go: W&B, the terminal, plots and traces. It computes no metric."""
