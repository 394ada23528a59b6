"""Writes the golden files of the codec: a tiny random Mimi, and what the PyTorch reference makes of it.

    ./setup.sh /tmp/golden-env && /tmp/golden-env/bin/python make_mimi.py

`mimi/model.safetensors` has the names of the released file, `mimi/config.json` the form of its `mimi_config`.
`mimi/outputs.safetensors` holds, for batch 2, 12 frames and an attention window of 5 (so that it slides):

    audio             float16 [2, samples], the input; its last frame is not full
    codes             of the whole recording, all 8 codebooks
    decoded           audio of `codes`;  decoded_3: row 0 from its first 3 codebooks
    stream_codes, stream_decoded            frame by frame (the ring forgets one key early, see `init_state`)
    masked_codes, masked_decoded            frame by frame, under `exec_mask [frames, 2]` and `reset_mask [frames, 2]`
    margin            smallest gap between the nearest and second nearest centroid, over the distance scale
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from moshi.models import loaders
from moshi.models.compression import MimiModel
from safetensors.torch import save_file

FRAMES, FRAME_SIZE, CODEBOOKS, FEW = 12, 1920, 8, 3
CONFIG = {
    "channels": 1,
    "sample_rate": 24000,
    "frame_rate": 12.5,
    "seanet": loaders._seanet_kwargs | {"dimension": 24, "n_filters": 4},
    "transformer": loaders._transformer_kwargs
    | {
        "d_model": 24,
        "num_heads": 2,
        "num_layers": 2,
        "context": 10,
        "dim_feedforward": 48,
        "input_dimension": 24,
        "output_dimensions": [24],
    },
    "quantizer": {
        "dimension": 12,
        "n_q": CODEBOOKS,
        "bins": 48,
        "input_dimension": 24,
        "output_dimension": 24,
    },
}


def make_audio(rng: np.random.Generator) -> torch.Tensor:
    """Two recordings of gliding tones with noise bursts, `[2, 1, samples]`, exact in float16."""
    samples = FRAMES * FRAME_SIZE - 700
    time = np.arange(samples) / 24000
    rows = []
    for start, end in ((120, 900), (700, 90)):
        phase = 2 * np.pi * np.cumsum(np.linspace(start, end, samples)) / 24000
        tone = sum(np.sin(k * phase) / k for k in (1, 2, 3, 5)) * (0.2 + 0.2 * np.sin(9 * time))
        rows.append(tone + 0.15 * rng.standard_normal(samples) * (np.sin(23 * time) > 0.3))
    return torch.from_numpy(np.stack(rows)[:, None].astype(np.float16)).float()


def randomise(mimi: MimiModel, audio: torch.Tensor, generator: torch.Generator) -> None:
    """Weights whose every part matters: loud enough branches, biases, norms; codebooks spread over the latents."""
    for name, weight in mimi.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "layer_scale" in name:
            weight.data = 0.4 + 0.1 * noise
        elif "norm" in name:
            weight.data += 0.2 * noise
        elif weight.dim() == 3:
            weight.data *= 2.0
    latent = mimi.encode_to_latent(audio, quantize=False)
    for branch in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        residual = branch.input_proj(latent).transpose(1, 2).reshape(-1, branch.dimension)
        for layer in branch.vq.layers:
            book = layer._codebook
            picked = residual[torch.randint(len(residual), (book.codebook_size,), generator=generator)]
            picked = picked + 0.3 * residual.std() * torch.randn(picked.shape, generator=generator)
            book.cluster_usage[:] = 20 * torch.rand(book.codebook_size, generator=generator) + 0.1
            book.embedding_sum[:] = picked * book.cluster_usage[:, None]
            book.cluster_usage[::17] = 0.0  # never used: the sum is divided by epsilon instead
            book.embedding_sum[::17] *= 1e-6
            book._initialized.fill_(1)
            residual = residual - book.decode(book.encode(residual))


def margin(mimi: MimiModel, audio: torch.Tensor) -> torch.Tensor:
    """Smallest relative gap between a vector's nearest and second nearest centroid."""
    latent = mimi.encode_to_latent(audio, quantize=False)
    gaps = []
    for branch in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        residual = branch.input_proj(latent).transpose(1, 2).reshape(-1, branch.dimension)
        for layer in branch.vq.layers:
            book = layer._codebook
            nearest = torch.cdist(residual.double(), book.embedding.double()).topk(2, largest=False).values
            gaps.append(((nearest[:, 1] - nearest[:, 0]) / nearest[:, 1]).min())
            residual = residual - book.decode(book.encode(residual))
    return torch.stack(gaps).min().float()


def stream(mimi: MimiModel, audio: torch.Tensor, exec_mask: torch.Tensor, reset_mask: torch.Tensor):
    """Frame-by-frame codes and audio, masks `[frames, batch]` applied before each frame."""
    codes, decoded = [], []
    with mimi.streaming(audio.shape[0]):
        for index, frame in enumerate(audio.split(FRAME_SIZE, dim=-1)):
            if reset_mask[index].any():
                mimi.reset_streaming(reset_mask[index])
            mimi.set_exec_mask(exec_mask[index])
            codes.append(mimi.encode(frame))
            decoded.append(mimi.decode(codes[-1]))
    return torch.cat(codes, -1), torch.cat(decoded, -1)[:, 0]


def released_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of the released file, which is older than the split of the attention projections."""
    renames = ((".in_projs.0.weight", ".in_proj_weight"), (".out_projs.0.weight", ".out_proj.weight"))
    out = {}
    for name, value in state.items():
        for new, old in renames:
            name = name.replace(new, old)
        out[name] = value.contiguous()
    return out


@torch.no_grad()
def main(folder: Path, seed: int) -> None:
    """Writes the three files and prints how near the nearest tie is."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    mimi = loaders.get_mimi(None, CONFIG, num_codebooks=CODEBOOKS)
    audio = make_audio(np.random.default_rng(seed))
    randomise(mimi, audio, generator)

    out = {"audio": audio[:, 0].half(), "margin": margin(mimi, audio)[None]}
    codes = out["codes"] = mimi.encode(audio)
    out["decoded"] = mimi.decode(codes)[:, 0]
    out["decoded_3"] = mimi.decode(codes[:1, :FEW])[:, 0]
    mimi.set_num_codebooks(FEW)
    assert torch.equal(mimi.encode(audio), codes[:, :FEW])
    mimi.set_num_codebooks(CODEBOOKS)

    padded = torch.nn.functional.pad(audio, (0, FRAMES * FRAME_SIZE - audio.shape[-1]))
    running, never = torch.ones(FRAMES, 2, dtype=torch.bool), torch.zeros(FRAMES, 2, dtype=torch.bool)
    out["stream_codes"], out["stream_decoded"] = stream(mimi, padded, running, never)
    out["exec_mask"], out["reset_mask"] = running.clone(), never.clone()
    out["exec_mask"][[0, 1, 6], 1] = False
    out["exec_mask"][3, 0] = False
    out["reset_mask"][8, 0] = True
    out["masked_codes"], out["masked_decoded"] = stream(mimi, padded, out["exec_mask"], out["reset_mask"])

    folder.mkdir(exist_ok=True)
    save_file(released_names(mimi.state_dict()), folder / "model.safetensors")
    out = {
        name: (value.int() if value.dtype == torch.int64 else value).contiguous()
        for name, value in out.items()
    }
    save_file(out, folder / "outputs.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")

    used = [codes[:, k].unique().numel() for k in range(CODEBOOKS)]
    print(f"smallest margin {out['margin'].item():.2e}; codes used {used}")
    print(f"audio scale {out['decoded'].abs().max():.3f}, {out['decoded'].std():.3f}")
    print(f"codes that the short ring changes: {int((out['stream_codes'] != out['codes']).sum())}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mimi")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.out, arguments.seed)
