"""The sending half of weight sync, from the learner to the engines. It trains nothing."""
