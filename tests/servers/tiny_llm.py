"""Makes a language model of random weights that says words of a small vocabulary: `tiny_llm.py FOLDER`.

Runs in the server's environment (transformers, torch), not in the package's.
"""

import json
import sys
from pathlib import Path

WORDS = (
    "blue box green red white Oslo Rome Boston Berlin with Emily James is in the it to your from and".split()
)


def main(folder: str) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<unk>", *(f"▁{word}" for word in WORDS)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        model.lm_head.weight[0] = -model.lm_head.weight[1:].abs().sum(0)  # never <unk>
    model.generation_config = GenerationConfig(do_sample=True, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (Path(folder) / "words.json").write_text(json.dumps(WORDS))


if __name__ == "__main__":
    main(sys.argv[1])
