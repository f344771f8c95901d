"""Questions: where they come from and how sets are drawn. Nothing here asks a model."""
