"""Writes the golden files of the language model: tiny random models, and what the PyTorch reference makes of them.

    ./setup.sh /tmp/golden-env && /tmp/golden-env/bin/python make_lm.py

Each case is a folder in `lm/`: a checkpoint as the reference would publish it (`model.safetensors`, `config.json`),
and `forward`, `loss` and `stream` outputs beside it. `README.md` says what each case covers and what the names mean.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from lm_cases import DEV_2B, KAME, LORA, NO_POSITIONS, NORMS, PLAIN, STT, USER_STREAM
from moshi.conditioners import ConditionAttributes, TensorCondition
from moshi.modules.lora import replace_all_linear_with_lora, replace_lora_with_linear
from moshi.utils.compile import no_compile
from reference import (
    Batch,
    LossWeights,
    OracleBuffer,
    OracleGen,
    OracleLM,
    build,
    loss,
    make_batch,
    smallest_margins,
)
from safetensors.torch import save_file

OUT = Path(__file__).parent / "lm"


def save(case: str, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Writes `lm/<case>/<name>.safetensors`; ids as int32, everything else as it is."""
    folder = OUT / case
    folder.mkdir(parents=True, exist_ok=True)
    clean = {key: (t.to(torch.int32) if t.dtype == torch.int64 else t) for key, t in tensors.items()}
    save_file(
        {key: t.detach().contiguous().clone() for key, t in clean.items()}, folder / f"{name}.safetensors"
    )


def save_checkpoint(case: str, model: OracleLM, kwargs: dict) -> None:
    save(case, "model", model.state_dict())
    (OUT / case / "config.json").write_text(json.dumps(kwargs, indent=1) + "\n")


def random_codes(model: OracleLM, batch: int, frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes `[batch, rows, frames]` with some -1 (nothing there), and an oracle `[batch, 1, frames]`."""
    rng = np.random.default_rng(seed)
    texts = model.text_card
    if model.text_emb.demux_second_stream:
        texts = (model.text_card + 1) * model.text_card
    codes = rng.integers(0, model.card, (batch, model.num_codebooks, frames))
    codes[:, 0] = rng.integers(0, texts, (batch, frames))
    codes[rng.random(codes.shape) < 0.08] = -1
    oracle = rng.integers(0, max(texts, model.text_card + 1), (batch, 1, frames))
    oracle[rng.random(oracle.shape) < 0.5] = model.text_padding_token_id
    return torch.from_numpy(codes), torch.from_numpy(oracle)


def outputs(out, suffix: str = "") -> dict[str, torch.Tensor]:
    """An `LMOutput` under the names that Moshi's own test assets use."""
    names = {
        "logits": out.logits,
        "mask": out.mask,
        "text_logits": out.text_logits,
        "text_mask": out.text_mask,
    }
    return {name + suffix: value for name, value in names.items()}


def conditions(model: OracleLM, texts: list[dict] = (), tensors: list[dict] = ()):
    """Condition tensors of a batch: one dict of texts or of tensors per row."""
    rows = [ConditionAttributes(text=row) for row in texts] or [
        ConditionAttributes(tensor=row) for row in tensors
    ]
    return model.condition_provider.prepare_and_provide(rows)


@torch.no_grad()
def forward(case: str, model: OracleLM, frames: int, seed: int, condition=None, extra=None) -> None:
    """`LMModel.forward` on random codes: with an oracle where the model has one, and there also without it."""
    codes, oracle = random_codes(model, 2, frames, seed)
    if model.oracle == "none":
        found = {"codes": codes} | outputs(model(codes, condition))
    else:
        found = {"codes": codes, "oracle": oracle} | outputs(model(codes, condition, oracle))
        found |= outputs(model(codes, condition), "_no_oracle")
    if condition is not None:
        found["condition"] = model.fuser.get_sum(condition)[:, 0]
    save(case, "forward", found | (extra or {}))


def stream(
    model: OracleLM,
    steps: int,
    batch: int,
    seed: int,
    *,
    oracle: torch.Tensor | None = None,
    condition=None,
    guidance: float = 1.0,
    pauses: bool = False,
) -> dict[str, torch.Tensor]:
    """Greedy `LMGen` on random user codes; `oracle [steps, batch]` is what each step reads.

    Guided, `condition` has the rows of the batch twice: given, and null.

    With `pauses`, rows stop and start over at random, each on its own, and the outputs of rows that have nothing to
    say are -2 (`support_out_of_sync`). Otherwise warm-up steps have -2 rows here where the reference returns None.
    """
    rng = np.random.default_rng(seed)
    user_rows = model.n_q - model.dep_q
    user = torch.from_numpy(rng.integers(0, model.card, (steps, batch, user_rows)))
    running = torch.from_numpy(rng.random((steps, batch)) < (0.75 if pauses else 2.0))
    reset = torch.from_numpy(rng.random((steps, batch)) < (0.02 if pauses else 0.0))
    text_logits, tokens, extra = [], [], []
    heads = len(model.extra_heads) > 0
    nothing = torch.full((batch, model.dep_q + 1, 1), model.ungenerated_token_id)
    gen = OracleGen(
        model,
        use_sampling=False,
        condition_tensors=condition,
        cfg_coef=guidance,
        support_out_of_sync=pauses,
        on_text_logits_hook=lambda logits: text_logits.append(logits[:, 0, 0].clone()),
    )
    with gen.streaming(batch):
        for step in range(steps):
            if reset[step].any():
                gen.reset_streaming(reset[step])
            gen.set_exec_mask(running[step])
            row = None if oracle is None else oracle[step]
            out = gen.step_with_oracle(user[step][:, :, None], row, extra_heads=heads)
            if heads and out is not None:
                out, probabilities = out
                extra.append(torch.stack(probabilities, dim=1)[:, :, 0])
            tokens.append((nothing if out is None else out)[:, :, 0].clone())
    found = {"user": user, "tokens": torch.stack(tokens), "text_logits": torch.stack(text_logits)}
    if pauses:
        found |= {"running": running, "reset": reset}
        found["text_logits"] = torch.where(running[:, :, None], found["text_logits"], torch.zeros(()))
    if oracle is not None:
        found["oracle"] = oracle
    if heads:
        found["extra_heads"] = torch.stack(extra)
    return found


LONG_SEED = 100


def save_stream(case: str, name: str, model: OracleLM, *args, **kwargs) -> None:
    found, margins = smallest_margins(lambda: stream(model, *args, **kwargs))
    print(f"{case}/{name}: smallest margin of a greedy choice {margins.min():.2e}")
    save(case, name, found | {"margin": margins.amin(dim=0, keepdim=True)})


def oracle_log(steps: int, seed: int) -> list[dict]:
    """Oracle sentences that are cut short, arrive late, grow piece by piece, or run out; the first at step 0."""
    rng = np.random.default_rng(seed)
    log, step = [], 0
    while step < steps:
        op = "replace" if not log or rng.random() < 0.4 else "append"
        count = int(rng.integers(0 if op == "replace" else 1, 9))
        log.append({"frame": step, "op": op, "tokens": rng.integers(4, KAME["text_card"], count).tolist()})
        step += int(rng.integers(1, 16))
    return log


def read_log(log: list[dict], model: OracleLM, steps: int) -> torch.Tensor:
    """What KAME's live oracle hands out at each step: `[steps]`."""
    buffer = OracleBuffer(model.text_card, model.text_padding_token_id)
    tokens = []
    for step in range(steps):
        for event in log:
            if event["frame"] == step:
                buffer.apply(event, step)
        tokens.append(buffer.token(step))
    return torch.tensor(tokens)


def batch_tensors(batch: Batch, suffix: str = "") -> dict[str, torch.Tensor]:
    return {f"inputs{suffix}": batch.inputs, f"labels{suffix}": batch.labels, f"oracle{suffix}": batch.oracle}


def parts_tensors(logged: dict[str, torch.Tensor], suffix: str = "") -> dict[str, torch.Tensor]:
    """Logged values as `loss<suffix>.<part>` and `accuracy<suffix>.<part>`."""
    return {f"{suffix}.".join(name.split("/")): value.detach().reshape(1) for name, value in logged.items()}


def gradients(model: OracleLM, batch: Batch) -> dict[str, torch.Tensor]:
    """Loss parts, and the gradient of the total for every parameter under `grad.<its name>`."""
    model.zero_grad()
    logged = loss(model, batch)
    logged["loss/total"].backward()
    grads = {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return parts_tensors(logged) | grads


MICRO_FINAL = ("oracle_emb.weight", "transformer.layers.1.gating.linear_in.weight", "linears.3.weight")
"""Of the last parameters of the accumulated steps these are kept, one of each kind, to keep the files small."""


def train(model: OracleLM, batches: list[list[Batch]], steps: int, name: str) -> dict[str, torch.Tensor]:
    """Clipping and AdamW as kame_finetune sets them, in its two groups, at rates that show.

    Each entry of `batches` is a step's micro-batches, one backward pass each, of whose gradients the mean is taken as
    accelerate and DeepSpeed do. Returns every logged value of each step (`<name>.loss.<part>`, averaged over
    micro-batches), the gradient's norm, and the last parameters (`<name>_final.<parameter>`).
    """
    model.temporal_out = None  # of the last forward pass: no leaf, which cannot be copied
    model = copy.deepcopy(model)
    depth = [p for name, p in model.named_parameters() if name.startswith(("depformer", "linears"))]
    others = [p for name, p in model.named_parameters() if not name.startswith(("depformer", "linears"))]
    groups = [{"params": others, "lr": 1e-3}, {"params": depth, "lr": 2e-3}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    rows: dict[str, list[torch.Tensor]] = {}
    for step in range(steps):
        optimizer.zero_grad()
        found = []
        parts = batches[step % len(batches)]
        for batch in parts:
            found.append(loss(model, batch))
            (found[-1]["loss/total"] / len(parts)).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        means = {key: torch.stack([one[key].detach() for one in found]).nanmean() for key in found[0]}
        for key, value in (means | {"grad_norm": norm}).items():
            rows.setdefault(f"{name}.{key.replace('/', '.')}", []).append(value)
    final = {f"{name}_final.{key}": p.detach().clone() for key, p in model.named_parameters()}
    return {key: torch.stack(values) for key, values in rows.items()} | final


def make_kame() -> None:
    """The 7B in miniature with the oracle: everything is tested on this one."""
    model = build(KAME, "separate", 1)
    save_checkpoint("kame", model, KAME)
    half = copy.deepcopy(model).to(torch.bfloat16)
    codes, oracle = random_codes(model, 2, 32, 11)
    with torch.no_grad():
        out = outputs(half(codes, None, oracle), "_bf16")
    half_logits = {name: out[name].float() for name in ("logits_bf16", "text_logits_bf16")}
    forward("kame", model, 32, 11, extra=half_logits)

    steps, log = 300, oracle_log(300, 12)
    (OUT / "kame" / "oracle.jsonl").write_text("".join(json.dumps(event) + "\n" for event in log))
    row = read_log(log, model, steps)[:, None].expand(-1, 2)
    save_stream("kame", "stream_oracle", model, steps, 2, 208, oracle=row)
    save_stream("kame", "stream_idle", model, steps, 1, 203, oracle=torch.full((steps, 1), 3))
    rng = np.random.default_rng(16)
    per_row = torch.from_numpy(rng.integers(0, model.text_card + 1, (160, 4)))
    save_stream("kame", "stream_pauses", model, 160, 4, 201, oracle=per_row, pauses=True)

    make_long(model)

    rng = np.random.default_rng(18)
    batches = [make_batch(model, (14, 9, 6), rng), make_batch(model, (13, 14, 12), rng)]
    found = batch_tensors(batches[0]) | batch_tensors(batches[1], "_other") | gradients(model, batches[0])
    found |= parts_tensors(loss(model, batches[0], LossWeights(0.3, 7.0, 2.0)), "_weights")
    tie = OracleLM("tie", **KAME)
    tie.load_state_dict(
        {name: t for name, t in model.state_dict().items() if not name.startswith("oracle_emb.")}
    )
    tied = gradients(tie, batches[0])
    found |= {"loss_tie.total": tied["loss.total"], "grad_tie.text_emb.weight": tied["grad.text_emb.weight"]}
    for name, padding in (("no_padding", 0.0), ("only_padding", 2.0)):
        batch = make_batch(model, (5, 4), rng, padding)
        # kame_finetune trains the column after the last frame as padding; without it a class can be empty.
        batch.labels[:, 0, 6:] = -1
        batch.labels[1, 0, 3:] = -1
        if name == "only_padding":
            batch.labels[:, 1:] = -1
        found |= batch_tensors(batch, f"_{name}") | parts_tensors(loss(model, batch), f"_{name}")
    found |= train(model, [[batch] for batch in batches], 20, "adamw")
    micro = train(model, [batches], 20, "micro")
    ends = {f"micro_final.{name}" for name in MICRO_FINAL}
    found |= {key: t for key, t in micro.items() if not key.startswith("micro_final.") or key in ends}
    save("kame", "loss", found)


def make_long(model: OracleLM) -> None:
    """Eight conversations of 1,000 frames, each with an oracle log of its own; ids only, as small integers.

    Among nine thousand choices one is often a tie within rounding: the 8 of 128 that come least near one are kept.
    """
    logs = [oracle_log(1000, LONG_SEED + row) for row in range(128)]
    oracle = torch.stack([read_log(log, model, 1000) for log in logs], dim=1)
    found, margins = smallest_margins(lambda: stream(model, 1000, len(logs), LONG_SEED, oracle=oracle))
    kept = margins.topk(8).indices
    margin = margins[kept].amin(dim=0, keepdim=True)
    print(f"kame/stream_long: smallest margin of a greedy choice {margin.item():.2e}")
    lines = [json.dumps({"row": row} | event) for row, index in enumerate(kept) for event in logs[index]]
    (OUT / "kame" / "oracle_long.jsonl").write_text("\n".join(lines) + "\n")
    small = {name: found[name][:, kept].to(torch.int8) for name in ("user", "tokens", "oracle")}
    save("kame", "stream_long", small | {"margin": margin})


def make_user_stream() -> None:
    """dep_q 16: the user's rows are predicted too, and take part in the loss."""
    model = build(USER_STREAM, "none", 2)
    save_checkpoint("user_stream", model, USER_STREAM)
    forward("user_stream", model, 12, 21)
    batch = make_batch(model, (9, 5), np.random.default_rng(23))
    save("user_stream", "loss", batch_tensors(batch) | gradients(model, batch))


def make_dev_2b() -> None:
    model = build(DEV_2B, "separate", 3)
    save_checkpoint("dev_2b", model, DEV_2B)
    rows = [{"description": "good", "speaker": "someone"}, {"description": "bad", "speaker": None}]
    forward("dev_2b", model, 20, 31, conditions(model, rows))
    save_stream("dev_2b", "stream", model, 60, 2, 32, condition=conditions(model, rows))
    null = [{"description": "fair", "speaker": "another"}, {"description": None, "speaker": None}]
    idle = torch.full((40, 2), model.text_padding_token_id)
    both = conditions(model, rows + null)
    save_stream("dev_2b", "guided", model, 40, 2, 33, oracle=idle, condition=both, guidance=2.5)


@torch.no_grad()
def make_stt() -> None:
    """No depth transformer. `LMModel.forward` asks for one, so the text pass is called alone."""
    model = build(STT, "none", 4)
    save_checkpoint("stt", model, STT)
    codes, _ = random_codes(model, 2, 24, 41)
    columns = torch.cat([model._get_initial_token().expand(2, -1, -1), codes], dim=2)[:, :, :-1]
    _, text_logits = model.forward_text(columns)
    save("stt", "forward", {"codes": codes, "text_logits": text_logits, "text_mask": codes[:, :1] >= 0})
    save_stream("stt", "stream", model, 60, 2, 42)


def make_plain() -> None:
    """One set of depth weights for all codebooks, which the reference cannot stream."""
    model = build(PLAIN, "separate", 5)
    save_checkpoint("plain", model, PLAIN)
    forward("plain", model, 18, 51)


def make_norms() -> None:
    model = build(NORMS, "none", 6)
    save_checkpoint("norms", model, NORMS)
    voices = torch.from_numpy(np.random.default_rng(61).normal(size=(2, 1, 1, 5))).float()
    given = [TensorCondition(voices[0], torch.ones(1, 1)), TensorCondition(voices[1], torch.zeros(1, 1))]
    condition = conditions(model, tensors=[{"voice": voice} for voice in given])
    forward("norms", model, 18, 62, condition, {"voice": voices[:, 0, 0]})
    save_stream("norms", "stream", model, 40, 2, 63, condition=condition)


def make_no_positions() -> None:
    model = build(NO_POSITIONS, "none", 7)
    save_checkpoint("no_positions", model, NO_POSITIONS)
    forward("no_positions", model, 18, 71)
    save_stream("no_positions", "stream", model, 40, 2, 72)


def make_lora() -> None:
    """Adapters on every linear layer: kept apart, and merged."""
    model = build(LORA, "none", 8)
    save_checkpoint("lora", model, LORA)
    replace_all_linear_with_lora(model, LORA["lora_rank"], LORA["lora_scaling"])
    adapters = {name: p for name, p in model.state_dict().items() if ".lora_" in name}
    for tensor in adapters.values():
        tensor.copy_(torch.randn(tensor.shape) * 0.2)
    save("lora", "lora", adapters)
    rows = [{"description": "calm"}, {"description": None}]
    merged = copy.deepcopy(model)
    replace_lora_with_linear(merged)
    codes, _ = random_codes(model, 2, 18, 81)
    with torch.no_grad():
        out = outputs(merged(codes, conditions(merged, rows)), "_merged")
        condition = conditions(model, rows)
    forward(
        "lora",
        model,
        18,
        81,
        condition,
        {name: out[name] for name in ("logits_merged", "text_logits_merged")},
    )
    save_stream("lora", "stream", model, 40, 2, 82, condition=condition)
    batch = make_batch(model, (9, 6), np.random.default_rng(83))
    found = {name: value for name, value in gradients(model, batch).items() if "frozen_W" not in name}
    found = {
        name: value
        for name, value in found.items()
        if name.startswith(("loss.", "accuracy.")) or ".lora_" in name
    }
    save("lora", "loss", batch_tensors(batch) | found)


CASES = {
    "kame": make_kame,
    "user_stream": make_user_stream,
    "dev_2b": make_dev_2b,
    "stt": make_stt,
    "plain": make_plain,
    "norms": make_norms,
    "no_positions": make_no_positions,
    "lora": make_lora,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all without a name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.cases or CASES:
        with no_compile():
            CASES[name]()
    print(f"{sum(path.stat().st_size for path in OUT.rglob('*')) / 1e6:.2f} MB in {OUT}")


if __name__ == "__main__":
    main()
