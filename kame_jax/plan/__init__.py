"""Plans: the real train step, or the frame step, compiled for hardware that is not present."""

from kame_jax.plan.report import Plan, make_decode_plan, make_plan, remedies

__all__ = ["Plan", "make_decode_plan", "make_plan", "remedies"]
