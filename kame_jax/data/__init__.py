"""Reading for training: dialogues and records on disk, data sets, cutting, augmenting, batching."""
