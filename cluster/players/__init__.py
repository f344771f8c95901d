"""Whatever can play the policy: an engine, a model at a URL, a fleet of engines. It decides no score."""
