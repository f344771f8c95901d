"""The episode: prompt, menu, turns and trajectory. It knows no Ray cluster, run or reward."""
