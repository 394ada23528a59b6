"""Foreign checkpoint layouts: the only place that knows a PyTorch, Hugging Face or MLX tensor name."""
