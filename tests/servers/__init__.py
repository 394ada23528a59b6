"""Real server programs for tests, in an environment of their own."""
