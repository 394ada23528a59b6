"""What may be read as a file and what may be replaced by one: regular files alone, and each whole or not at all."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from kame_jax.errors import InputError, WorkError
from kame_jax.files import output_place, read_text, regular_file, write_text, write_whole

ODD = {
    "folder": "is a folder",
    "fifo": "is a named pipe",
    "socket": "is a socket",
    "device": "is a device",
    "loop": "symbolic links|[Ss]ymlink loop",
    "n\0l": "null",
    "x" * 300: "too long",
}


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A folder with one of each thing that is not a regular file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")  # its whole path may be too long for one
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_regular_file_is_refused_at_once_as_input_and_as_output(name, odd):
    with pytest.raises(InputError, match=f"{ODD[name]}.*expected a sound file"):
        regular_file(odd / name, "a sound file")
    with pytest.raises(InputError, match=ODD[name]):
        read_text(odd / name, "text")
    before = sorted(os.listdir(odd))
    for ask in (output_place, lambda path: write_text(path, "x")):
        with pytest.raises(InputError, match=ODD[name]):
            ask(odd / name)
    assert sorted(os.listdir(odd)) == before


def test_a_place_without_a_writable_folder_is_refused_before_the_work(tmp_path):
    write_text(tmp_path / "file", "x")
    for name in ("no/a.wav", "file/a.wav"):
        with pytest.raises(InputError, match="its folder does not exist"):
            output_place(tmp_path / name)
        with pytest.raises(InputError, match="no such file, expected text"):
            read_text(tmp_path / name, "text")


def test_a_link_stays_a_link_and_what_it_names_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/real")
    for text in ("one", "two"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "far" / "real").read_text() == text
    assert os.listdir(tmp_path / "far") == ["real"]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    name = "é" * 120 + ".wav"
    write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


def test_text_is_utf_8_with_or_without_a_byte_order_mark_and_bounded(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffgrün".encode())
    assert read_text(tmp_path / "a", "text") == "grün"
    with pytest.raises(InputError, match="holds more than 4 bytes, expected text"):
        read_text(tmp_path / "a", "text", limit=4)
    (tmp_path / "b").write_bytes("grün".encode("latin-1"))
    with pytest.raises(InputError, match=r"b: is not UTF-8 text \(byte 2\), expected text"):
        read_text(tmp_path / "b", "text")


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
def test_a_pipe_that_the_shell_opened_can_be_read(name):
    code = f"from kame_jax.files import read_text; print(read_text({name!r}, 'text', 5))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input="hello", capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def fail(file):
        file.write(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_whole(tmp_path / "a.wav", fail)
    assert not list(tmp_path.iterdir())

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WorkError, match="a.wav: cannot be written: No space left on device"):
        write_whole(tmp_path / "a.wav", full)
    assert not list(tmp_path.iterdir())
