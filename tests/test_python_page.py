"""docs/python.md is one program: here it runs, from photos to searching the past."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import facestream
from facestream import FacestreamError

PAGE = Path(facestream.__file__).parent / "docs" / "python.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def set_the_scene(folder: Path, assets: Path) -> None:
    """Anna's photo, a wall, a folder of others, and a camera that sees Anna and then Bert."""
    gallery = sorted((assets / "london/gallery_neutral").glob("*.jpg"))
    shutil.copy(gallery[0], folder / "anna.jpg")
    cv2.imwrite(str(folder / "wall.jpg"), np.full((200, 200, 3), 90, np.uint8))
    (folder / "photos").mkdir()
    for name, photo in zip(("BERT", "CLARA"), gallery[1:3], strict=True):
        shutil.copy(photo, folder / "photos" / f"{name}.jpg")
    (folder / "frames").mkdir()
    smiling = assets / "london/probe_smiling" / gallery[0].name.replace("_03", "_08")
    assert smiling.is_file(), "the smiling photo of the same person"
    picture = cv2.imread(str(smiling))
    for number in range(12):
        shifted = np.roll(picture, 2 * number, axis=1)
        cv2.imwrite(str(folder / "frames" / f"{number:03}.jpg"), shifted)


def test_the_page_is_a_program(
    open_models: object,
    assets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_the_scene(tmp_path, assets)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert names["names"].seen == ["Anna Smith"]  # type: ignore[attr-defined]
    assert "no face found" in said.splitlines()[0]
    assert said.splitlines()[-1] == "['BERT', 'CLARA']"


def test_the_table_of_errors_is_that_of_the_tree() -> None:
    rows = re.findall(r"^\| (`.*?) \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    listed = {name: int(code) for names, code in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed == {name: getattr(facestream, name).exit_code for name in listed}
    families = {one.__name__ for one in FacestreamError.__subclasses__()} - {"RecordError"}
    assert families <= set(listed)
