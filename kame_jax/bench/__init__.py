"""Figures with their floor and ratio, and the PyTorch reference beside them where it is installed.

Each module but `measure` and `peer` is one benchmark: `add_arguments(parser)` declares its options, and
`measure(args, say)` gives the result that scripts read and the text that people read.
"""
