"""`kame-jax convert to-jax SOURCE DEST`: any known layout to an Orbax checkpoint, with its tokenizer and codec.

The layout and the configuration are recognised, not asked for.
"""

from __future__ import annotations

import argparse
from typing import Any

from kame_jax.cli.common import emit, log
from kame_jax.cli.convert_common import add_derived, add_source, open_source, terminable


def add_parser(subparsers: Any) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "to-jax", help="any known layout to an Orbax checkpoint", description=__doc__
    )
    add_source(parser, "source")
    parser.add_argument("dest", help="folder to make")
    add_derived(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Read SOURCE, write DEST."""
    from kame_jax.checkpoint.native import Meta, save
    from kame_jax.files import free_folder
    from kame_jax.interop import oddities
    from kame_jax.interop.beside import find_beside
    from kame_jax.model import tree

    checkpoint = open_source(args, args.source)
    parameters = tree.count(checkpoint.weights.shapes)
    log(f"{checkpoint.name}: {checkpoint.layout}, {parameters:,} parameters")
    free_folder(args.dest)
    beside = find_beside(args.source, checkpoint)
    watched = oddities.Watched(checkpoint.weights)
    with terminable():
        save(args.dest, watched, Meta(checkpoint.config, checkpoint.provenance), beside.copy)
    notes = [*checkpoint.notes, *oddities.describe_zeros(watched.zeros)]
    for note in [*notes[len(checkpoint.notes) :], *beside.lines]:
        log(f"note: {note}")
    result = {
        "source": args.source,
        "dest": args.dest,
        "layout": checkpoint.layout,
        "parameters": parameters,
        "notes": notes,
        "carried": beside.sources,
        "missing": beside.missing,
    }
    emit(args, result, f"{args.dest}: {parameters:,} parameters, from {checkpoint.layout}")
