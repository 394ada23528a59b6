"""The bundled task and its story: dialogues whose answers only the oracle knows."""
