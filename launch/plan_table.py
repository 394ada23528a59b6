"""Plans every preset of `configs/pods` for its machine and writes the table in `docs/pages/plan.md`.

    python launch/plan_table.py [PRESET ...]

Those for TPUs are compiled by the TPU's own compiler (`pip install -e '.[plan]'`; minutes each, no TPU needed), those
for GPUs are closed-form estimates. Results are kept in `launch/plans.json`, so that presets can be done one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "launch" / "plans.json"
BEGIN, END = "<!-- plans: made by launch/plan_table.py -->\n", "<!-- end of plans -->\n"
MACHINES = {
    "v5e_64": ("v5e-64",),
    "v5e_256": ("v5e-256",),
    "v5p_32": ("v5p-32",),
    "v6e_64": ("v6e-64",),
    "8xh100": ("8xH100", "8xH200"),
    "1xh200": ("1xH200",),
}
HEAD = (
    "| preset | machine | frames a step | GiB a device: state + rest of limit | step, s | MFU | how |\n"
    "| --- | --- | --- | --- | --- | --- | --- |\n"
)


def machines_of(preset: str) -> tuple[str, ...]:
    """The machines that a preset's name states; none for a name without one."""
    return next((machines for name, machines in MACHINES.items() if name in preset), ())


def plan(preset: str, machine: str) -> dict[str, object]:
    """One plan, as `kame-jax plan --json` gives it, with the frames of a step."""
    from kame_jax.config import load_run
    from kame_jax.plan import make_plan
    from kame_jax.plan.report import row_length
    from kame_jax.plan.target import parse_target

    config = load_run(preset)
    length = row_length(config)
    found = make_plan(config, parse_target(machine), length).to_dict()
    return found | {"frames": config.train.batch_size * length}


def table(plans: dict[str, dict[str, dict]]) -> str:
    """The table of all plans."""
    rows = []
    for preset in sorted(plans):
        for machine, found in plans[preset].items():
            rows.append(_row(preset, machine, found))
    return HEAD + "".join(rows)


def _row(preset: str, machine: str, found: dict) -> str:
    gib = [(found[name] or 0) / (1 << 30) for name in ("argument_bytes", "temporary_bytes", "limit_bytes")]
    memory = f"{gib[0]:.1f} + {gib[1]:.1f} of {gib[2]:.1f}" if found["fits"] else f"does not fit {gib[2]:.1f}"
    how = f"compiled, {found['compile_seconds']:.0f} s" if found["method"] == "compiled" else "estimated"
    seconds = (
        f"{found['predicted_seconds']:.2g} to {found['predicted_seconds_serial']:.2g}"
        if found["fits"]
        else ""
    )
    mfu = ""
    if found["fits"]:
        best = found["predicted_mfu"]
        worst = best * found["predicted_seconds"] / found["predicted_seconds_serial"]
        mfu = f"{worst:.0%} to {best:.0%}"
    return f"| `{preset}` | {machine} | {found['frames']:,} | {memory} | {seconds} | {mfu} | {how} |\n"


def write(text: str, page: Path) -> None:
    """Writes the table between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise SystemExit(f"{page}: no line {BEGIN.strip()!r} with {END.strip()!r} after it")
    part = page.with_name(".plan.part")
    part.write_text(before + BEGIN + text + END + after, encoding="utf-8")
    part.replace(page)


def main() -> None:
    """Plan the given presets and write the table."""
    found = sorted(path.stem for path in (ROOT / "configs" / "pods").glob("*.yaml"))
    known = [preset for preset in found if machines_of(preset)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="default: all of configs/pods")
    presets = parser.parse_args().presets or known
    if unknown := set(presets) - set(known):
        parser.error(f"no preset {', '.join(sorted(unknown))} in configs/pods; there are {', '.join(known)}")
    plans = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for preset in presets:
        for machine in machines_of(preset):
            print(f"{preset} on {machine}", file=sys.stderr, flush=True)
            plans.setdefault(preset, {})[machine] = plan(preset, machine)
            KEPT.write_text(json.dumps(plans, indent=1, sort_keys=True) + "\n")
    write(table(plans), ROOT / "docs" / "pages" / "plan.md")


if __name__ == "__main__":
    main()
