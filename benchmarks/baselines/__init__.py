"""Baselines: routers that a trained policy should beat, behind one interface, over reply tables."""
