"""The bundled dialogues and the script that made them."""
