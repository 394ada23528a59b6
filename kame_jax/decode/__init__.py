"""Streaming: the jitted frame step, its state and its sampling."""

from kame_jax.decode.sampling import Sampling, greedy, sample, sampling
from kame_jax.decode.step import DecodeState, FrameOutput, frame_step, init_state

__all__ = [
    "DecodeState",
    "FrameOutput",
    "Sampling",
    "frame_step",
    "greedy",
    "init_state",
    "sample",
    "sampling",
]
