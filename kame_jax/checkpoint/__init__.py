"""Our own checkpoints: the format that every command reads, and those of a training run."""
