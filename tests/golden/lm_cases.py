"""The tiny models of the language model's golden files, as LM keyword arguments of a checkpoint's `config.json`.

Together they use every option that a released model or an older checkpoint has; `README.md` has the table.
"""

from __future__ import annotations

SMALL = {"causal": True, "dim": 16, "num_heads": 2, "num_layers": 2, "card": 14, "text_card": 20}
SMALL_DEPTH = {"depformer_dim": 12, "depformer_num_heads": 2, "depformer_num_layers": 2}
PER_STEP = {"depformer_multi_linear": True, "depformer_weights_per_step": True, "depformer_gating": "silu"}

KAME = {
    "dim": 24,
    "num_heads": 2,
    "num_layers": 2,
    "hidden_scale": 2.0,
    "text_card": 40,
    "card": 24,
    "n_q": 16,
    "dep_q": 8,
    "delays": [0] + ([0] + [1] * 7) * 2,
    "causal": True,
    "context": 24,
    "max_period": 10000,
    "norm": "rms_norm_f32",
    "gating": "silu",
    "positional_embedding": "rope",
    "existing_text_padding_id": 3,
    "depformer_dim": 12,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_dim_feedforward": 24,
    "depformer_pos_emb": "none",
} | PER_STEP

USER_STREAM = KAME | {
    "dim": 12,
    "num_layers": 1,
    "card": 10,
    "text_card": 16,
    "dep_q": 16,
    "depformer_num_layers": 1,
}

DEV_2B = (
    SMALL
    | SMALL_DEPTH
    | PER_STEP
    | {
        "n_q": 6,
        "dep_q": 3,
        "delays": [0, 0, 2, 2, 0, 2, 2],
        "hidden_scale": 4,
        "text_card_out": 70,
        "demux_second_text_stream": True,
        "context": 10,
        "max_period": 100000,
        "norm": "rms_norm_f32",
        "gating": "silu",
        "layer_scale": 0.5,
        "positional_embedding": "rope",
        "depformer_weights_per_step_schedule": [0, 1, 1],
        "depformer_low_rank_embeddings": 6,
        "depformer_norm": "rms_norm_f32",
        "depformer_pos_emb": "none",
        "conditioners": {
            "description": {
                "type": "lut",
                "lut": {
                    "n_bins": 5,
                    "dim": 6,
                    "tokenizer": "noop",
                    "possible_values": ["bad", "fair", "good"],
                },
            },
            "speaker": {"type": "lut", "lut": {"n_bins": 7, "dim": 4, "tokenizer": "noop"}},
        },
        "fuser": {"sum": ["description", "speaker"], "cross": [], "prepend": []},
    }
)

STT = SMALL | {
    "n_q": 4,
    "dep_q": 0,
    "delays": [0] * 5,
    "hidden_scale": 4.125,
    "context": 12,
    "max_period": 100000,
    "norm": "rms_norm_f32",
    "gating": "silu",
    "positional_embedding": "rope",
    "depformer_dim": 12,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "extra_heads_num_heads": 4,
    "extra_heads_dim": 6,
}

PLAIN = (
    SMALL
    | SMALL_DEPTH
    | {
        "n_q": 5,
        "dep_q": 2,
        "delays": [0, 1, 0, 2, 1, 0],
        "hidden_scale": 2,
        "norm": "layer_norm",
        "norm_emb": True,
        "gating": "none",
        "positional_embedding": "sin",
        "text_card_out": 9,
        "depformer_pos_emb": "sin",
    }
)

NORMS = (
    SMALL
    | SMALL_DEPTH
    | PER_STEP
    | {
        "n_q": 4,
        "dep_q": 4,
        "delays": [0, 0, 1, 2, 4],
        "hidden_scale": 4,
        "context": 7,
        "norm": "rms_norm",
        "norm_emb": True,
        "gating": "gelu",
        "layer_scale": 0.3,
        "positional_embedding": "sin_rope",
        "depformer_num_layers": 1,
        "depformer_low_rank_embeddings": 6,
        "depformer_norm": "layer_norm",
        "depformer_pos_emb": "rope",
        "depformer_max_period": 50,
        "conditioners": {"voice": {"type": "tensor", "tensor": {"dim": 5}}},
        "fuser": {"sum": ["voice"], "cross": [], "prepend": []},
    }
)

NO_POSITIONS = (
    SMALL
    | SMALL_DEPTH
    | {
        "n_q": 2,
        "dep_q": 2,
        "delays": [1, 0, 1],
        "hidden_scale": 3,
        "context": 9,
        "norm": "layer_norm_f32",
        "gating": "relu",
        "positional_embedding": "none",
        "depformer_weights_per_step": True,
        "depformer_gating": "sigmoid",
        "depformer_pos_emb": "none",
    }
)

LORA = (
    SMALL
    | SMALL_DEPTH
    | PER_STEP
    | {
        "n_q": 4,
        "dep_q": 2,
        "delays": [0, 0, 1, 0, 1],
        "hidden_scale": 2,
        "context": 12,
        "norm": "rms_norm_f32",
        "gating": "silu",
        "positional_embedding": "rope",
        "depformer_num_layers": 1,
        "depformer_low_rank_embeddings": 6,
        "depformer_pos_emb": "none",
        "extra_heads_num_heads": 1,
        "conditioners": {
            "description": {"type": "lut", "lut": {"n_bins": 5, "dim": 6, "tokenizer": "noop"}},
        },
        "fuser": {"sum": ["description"], "cross": [], "prepend": []},
        "lora": True,
        "lora_rank": 3,
        "lora_scaling": 2.0,
        "lora_name": "lora.safetensors",
    }
)
