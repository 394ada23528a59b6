"""The bundled task and its demo: dialogues with answers that only the oracle knows."""
