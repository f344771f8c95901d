"""Which episodes are played, with which candidates, and how they are judged. It starts no engine."""
