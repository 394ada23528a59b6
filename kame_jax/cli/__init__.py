"""The command line: one small file per command. The top layer: it may import everything, nothing imports it."""
