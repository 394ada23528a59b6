"""Figures with their floor and ratio, next to the PyTorch reference where it is installed.

Each module except `measure` and `peer` is one benchmark: `add_arguments(parser)` declares its options, and
`measure(args, say)` gives the result that scripts read and the text that people read.
"""
