"""Training: loss, optimizer, state, the one jitted step, checkpoints, and the loop that ties them."""
