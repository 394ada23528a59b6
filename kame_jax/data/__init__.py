"""Dialogues to training batches: reading, tokenising, cutting, augmenting, batching."""
