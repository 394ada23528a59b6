"""`kame-jax stream` as a new user runs it: the bundled model, a bundled question, sound and picture out."""

import json

import numpy as np
import pytest
import soundfile

from kame_jax.assets import TINY
from kame_jax.cli.main import main
from kame_jax.demo.dialogues import ROOT, sample_entries
from tests.compiled import quickly
from tests.golden.read import LM_FILES, outputs


@pytest.fixture(scope="module", autouse=True)
def one_compilation(tmp_path_factory):
    """Every run of the command compiles the same step."""
    with quickly(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    status = main(
        ["stream", "--out", str(folder / "a.wav"), "--picture", str(folder / "a.png"), "--greedy", "--json"]
    )
    return folder, status


def test_the_bundled_model_answers_a_bundled_question_with_sound_of_the_same_length(answer):
    folder, status = answer
    assert status == 0
    name = sample_entries("heldout")[0].id
    heard, said = (
        soundfile.info(str(f)) for f in (next((ROOT / "audio").glob(f"{name}.*")), folder / "a.wav")
    )
    assert said.samplerate == 24_000
    assert abs(said.frames / said.samplerate - heard.frames / heard.samplerate) < 1e-3
    assert (folder / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_reply_begins_in_silence(answer):
    first, _ = soundfile.read(str(answer[0] / "a.wav"), frames=1920)
    # 50 dB under full scale; a decoder that knows no beginnings jumps to 0.14 in the first sample.
    assert np.abs(first).max() < 3e-3


@pytest.fixture
def question(tmp_path):
    """A bundled question alone: the recording ends with its last word."""
    sound, rate = soundfile.read(ROOT / "audio" / "d002.ogg")
    soundfile.write(tmp_path / "question.wav", sound[: int(1.2 * rate), 1], rate)
    return tmp_path / "question.wav"


def test_a_question_is_answered_after_its_recording_has_ended(question, tmp_path, capsys):
    oracle = ["--oracle", str(ROOT / "oracle_raw" / "d002.json"), "--greedy", "--json"]
    assert main(["stream", "--user", str(question), "--out", str(tmp_path / "a.wav"), *oracle]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["said"] == result["oracle"] == "The blue one with Sofia in Oslo"
    seconds = soundfile.info(str(tmp_path / "a.wav")).duration
    assert seconds == pytest.approx(1.2 + result["tail_seconds"])
    assert 2.5 < seconds < 5


def test_a_conversation_that_ends_too_soon_says_why_nothing_is_said(question, tmp_path, capsys):
    out = ["--out", str(tmp_path / "a.npz"), "--tail", "0"]
    assert main(["stream", "--user", str(question), *out, "--greedy"]) == 0
    assert "the model said nothing: it may need a longer --tail than 0 s" in capsys.readouterr().err
    with np.load(tmp_path / "a.npz") as file:  # sound in, codes out
        assert (file["text"].shape, file["audio"].shape) == ((15,), (2, 15))


def test_a_transcript_whose_times_are_not_seconds_is_refused(question, tmp_path, capsys):
    words = json.loads((ROOT / "text" / "d002.json").read_text())
    for name, scale, shift in (("milliseconds", 1000, 0), ("epoch", 1, 1.7e9)):
        late = [word | {k: word[k] * scale + shift for k in ("start", "end")} for word in words]
        (tmp_path / "words.json").write_text(json.dumps(late))
        arguments = ["--user", str(question), "--transcript", str(tmp_path / "words.json")]
        assert main(["stream", *arguments, "--out", str(tmp_path / "a.wav")]) == 2, name
        assert "begin after the recording's end (1.20 s)" in capsys.readouterr().err
    assert not (tmp_path / "a.wav").exists()


def test_codes_go_in_and_out_with_an_oracle_log(tmp_path, capsys):
    np.savez(tmp_path / "in.npz", user_audio=np.zeros((2, 20), np.int32))
    (tmp_path / "log.jsonl").write_text('{"frame": 3, "op": "replace", "tokens": [20, 21]}\n')
    arguments = [
        "--user",
        str(tmp_path / "in.npz"),
        "--out",
        str(tmp_path / "out.npz"),
        "--checkpoint",
        str(TINY),
    ]
    assert main(["stream", *arguments, "--oracle", str(tmp_path / "log.jsonl"), "--greedy", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    with np.load(tmp_path / "out.npz") as file:
        assert file["text"].shape == (19,)
        assert file["audio"].shape == (2, 19)
    assert result["frames"] == 19
    assert result["oracle_tokens_read"] == 3
    # More codebooks than the model hears, as `codec encode` gives them, and sound out.
    np.savez(tmp_path / "in.npz", user_audio=np.zeros((4, 20), np.int32))
    arguments[3] = str(tmp_path / "out.wav")
    assert main(["stream", *arguments, "--greedy"]) == 0
    assert "has 4 codebooks, of which the model hears the first 2" in capsys.readouterr().err
    assert soundfile.info(str(tmp_path / "out.wav")).frames == 19 * 1920


CONDITIONED = ["--checkpoint", str(LM_FILES / "dev_2b"), "--greedy", "--json"]


def test_conditions_and_what_guidance_leads_away_from_give_the_references_frames(tmp_path):
    golden, out = outputs("dev_2b", "guided"), tmp_path / "out.npz"
    np.savez(tmp_path / "in.npz", user_audio=golden["user"][:, 0].T)
    arguments = ["--user", str(tmp_path / "in.npz"), "--out", str(out), "--guidance", "2.5"]
    for option, pairs in (
        ("--condition", ("description=good", "speaker=someone")),
        ("--null-condition", ("description=fair", "speaker=another")),
    ):
        for pair in pairs:
            arguments += [option, pair]
    assert main(["stream", *CONDITIONED, *arguments]) == 0
    with np.load(out) as file:
        said = np.concatenate([file["text"][None], file["audio"]])
    np.testing.assert_array_equal(said.T, golden["tokens"][-said.shape[1] :, 0])
    assert said.shape[1] == len(golden["tokens"]) - 2


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([], "condition 'description' is missing, expected one of bad, fair, good"),
        (["description=good"], "condition 'speaker' is missing, expected any text"),
        (["description=best", "speaker="], "condition 'description' is 'best', expected one of bad"),
        (["description"], "--condition description: expected NAME=VALUE, each name once"),
        (["speaker=a", "speaker=b"], "--condition speaker=b: expected NAME=VALUE, each name once"),
    ],
)
def test_a_conditioned_model_does_not_stream_without_its_conditions(conditions, message, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", user_audio=np.zeros((3, 4), int))
    arguments = ["--user", str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz")]
    for condition in conditions:
        arguments += ["--condition", condition]
    assert main(["stream", *CONDITIONED, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--condition", "mood=calm"], "condition 'mood' is unknown (the model has none)"),
        (["--guidance", "nan"], "guidance is nan"),
        (["--user", "nowhere.wav"], "nowhere.wav"),
        (["--text-top-k", "0"], "text_top_k is 0"),
        (["--out", "reply.mp3"], "must end in .wav or .npz"),
        (["--out", "folder.wav"], "is a folder"),
        (["--log", "folder.wav"], "is a folder"),
        (["--tail", "-1"], "expected seconds from 0"),
        (["--tensor", "1000"], "the devices of this machine"),
        (["--user", "folder.wav"], "is a folder, expected a sound file"),
        (["--user", "x.npz", "--tail", "1"], "--tail needs a sound file"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--oracle", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--llm", "faq:nowhere.jsonl"], "nowhere.jsonl"),
        (["--llm", "nowhere.yaml"], "nowhere.yaml"),
        (["--llm", "sample", "--oracle", "x.jsonl"], "exclude each other"),
        (["--stt", "pocketsphinx", "--transcript", "x.json"], "exclude each other"),
        (["--sample", "d000"], "there are d002, "),
        (["--stt", "nowhere"], "settings of STTConfig"),
        (["--stt", "kyutai"], "base_url"),
        (["--stt", "whisper:ftp://x"], "base_url: expected http"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.wav").mkdir()
    assert main(["stream", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["folder.wav"]


def test_a_back_end_tells_the_oracle_while_the_user_speaks_and_its_log_replays_the_same_sound(
    tmp_path, capsys
):
    arguments = ["--greedy", "--json", "--picture", str(tmp_path / "a.png")]
    live = ["--llm", "sample", "--log", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "a.wav")]
    assert main(["stream", *arguments, *live]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["events"]["adopted"] >= 1
    assert 0 < report["word_to_oracle_seconds_p50"] < 1.0
    assert report["oracle_read_fraction"] > 0
    for name in ("frame_ms_p99", "oracle_age_seconds_p50", "first_word_seconds", "llm_questions", "llm_cost"):
        assert name in report
    events = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    told = next(event["frame"] for event in events if event.get("op") == "replace")
    assert told < max(event["frame"] for event in events if event.get("event") == "heard")
    again = ["--oracle", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "b.wav")]
    assert main(["stream", *arguments, *again]) == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    replayed = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("given", "read", "erased"):
        assert replayed[f"oracle_tokens_{name}"] == report[f"oracle_tokens_{name}"]
    assert replayed["oracle_read_fraction"] == report["oracle_read_fraction"]


def test_a_back_end_that_never_answers_is_told_at_once_and_in_the_exit_status(tmp_path, capsys):
    (tmp_path / "llm.yaml").write_text("llm: {model: m, base_url: http://127.0.0.1:9/v1, retries: 0}\n")
    (tmp_path / "words.json").write_text('[{"word": "Where", "start": 0.1, "end": 0.2}]')
    soundfile.write(tmp_path / "user.wav", np.zeros(24_000, np.float32), 24_000)
    names = [("user", "user.wav"), ("transcript", "words.json"), ("llm", "llm.yaml"), ("out", "reply.wav")]
    options = [text for name, file in names for text in (f"--{name}", str(tmp_path / file))]
    assert main(["stream", "--greedy", "--json", *options]) == 1
    out, error = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert (tmp_path / "reply.wav").is_file()
    assert result["oracle"] is None
    assert result["events"]["failed_connection"] >= 1
    assert error.count("language model m at http://127.0.0.1:9/v1: connection: ") == 1
    assert "kame-jax: the back end never gave an answer: language model m" in error.splitlines()[-1]
