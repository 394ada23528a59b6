"""Oracle records become the events that kame_finetune's tokenize_oracle.py makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from kame_jax.data.events import FIELDS, UNSAID, build_events
from kame_jax.demo.dialogues import TOKENIZER
from kame_jax.errors import InputError
from kame_jax.oracle.text import load_tokenizer

CASES = json.loads((Path(__file__).parents[1] / "golden" / "data" / "events.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


def test_events_equal_the_reference(tokenizer):
    reference = {"frame_pos": "event_frame_pos", "ratio": "event_ratio", "skip_forbid": "event_skip_forbid"}
    kept = 0
    for case in CASES:
        events = build_events(case["records"], case["channel"], case["frames"], tokenizer)
        kept += len(events)
        assert (events.use_hint == UNSAID).all()
        for name, dtype in FIELDS.items():
            if name == "use_hint":
                continue  # a column of later versions
            values = getattr(events, name)
            assert values.dtype == dtype
            np.testing.assert_array_equal(values, np.array(case["events"][reference.get(name, name)], dtype))
    assert kept > 40


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"timestamp_ms": "soon"}, "timestamp_ms 'soon'"),
        ({"timestamp_ms": 0, "channel": "left"}, "channel 'left'"),
        ({"timestamp_ms": 0, "prediction": 4}, "prediction 4"),
        ("late", "expected an object"),
    ],
)
def test_a_broken_record_is_named_by_its_index(tokenizer, record, message):
    good = {"timestamp_ms": 0, "prediction": "red", "channel": 0}
    with pytest.raises(InputError, match=f"oracle record 1: .*{message}"):
        build_events([good, record], 0, 10, tokenizer)
