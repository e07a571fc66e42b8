"""A new file: it gets its name when it is whole, and takes nobody else's."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from facestream.stream.new_file import write_new


@pytest.mark.parametrize("lacks", ["nothing", "files without a name", "links too"])
def test_a_new_file_gets_its_name_whole_and_takes_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    whole, link = os.open, os.link

    def refuse(place: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return whole(place, flags, *more, **named)

    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no")

    if lacks != "nothing":
        monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "link", no_link if lacks == "links too" else link)
    new, other = tmp_path / "new", tmp_path / "other"
    with write_new(new) as file:
        file.write(b"all")
        assert not new.exists()
    assert new.read_bytes() == b"all" and stat.S_IMODE(new.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError), write_new(other) as file:
        file.write(b"mine")
        other.write_bytes(b"theirs")
    with pytest.raises(KeyboardInterrupt), write_new(tmp_path / "half") as file:
        file.write(b"ha")
        raise KeyboardInterrupt
    assert other.read_bytes() == b"theirs"
    assert sorted(tmp_path.iterdir()) == [new, other]
