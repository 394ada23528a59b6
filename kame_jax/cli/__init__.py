"""The command line: one small file per command. The top floor: it may import all, nothing imports it."""
