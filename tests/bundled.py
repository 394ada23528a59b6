"""Some of the bundled dialogues in a folder of their own."""

import shutil

from kame_jax.demo.dialogues import ROOT, TOKENIZER


def copy_dialogues(folder, names):
    """Copies the bundled dialogues `names`, and their tokenizer, to `folder`; returns it."""
    for place in ("audio", "text", "oracle_raw"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            for file in (ROOT / place).glob(f"{name}.*"):
                shutil.copy(file, folder / place)
    shutil.copy(TOKENIZER, folder)
    return folder
