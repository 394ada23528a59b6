"""The bundled dialogues."""
