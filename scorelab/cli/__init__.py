"""Commands: `scorelab` trains, samples and evaluates the experiment of a config."""
