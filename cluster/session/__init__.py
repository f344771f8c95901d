"""The process of a command: Ray, signals, logs and orphans. It knows nothing about training."""
