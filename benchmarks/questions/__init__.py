"""Questions: their sources, and how sets are drawn from them. Nothing here calls a model."""
