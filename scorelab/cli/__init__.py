"""Commands: `scorelab` trains, samples and evaluates a config; sweep, report and export."""
