"""Commands: `scorelab`, which trains, samples and measures the experiment of a config."""
