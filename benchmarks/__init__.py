"""What is learnt and how it is measured: the embedded world, baselines, evaluation, figures."""
