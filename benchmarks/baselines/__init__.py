"""Baselines: routers that a trained policy should beat. They share one interface and work on reply tables."""
