"""The fourth stream: what the back end knows, one token per frame."""

from kame_jax.oracle.schedule import OracleOp, OracleSchedule, OracleState

__all__ = ["OracleOp", "OracleSchedule", "OracleState"]
