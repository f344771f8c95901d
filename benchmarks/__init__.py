"""Provides tasks and measures results: data sets, the embedded world, baselines, evaluation, benchmarks, figures.

It may import every room except `cluster`.
"""
