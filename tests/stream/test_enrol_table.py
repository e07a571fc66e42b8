"""A table of photos: what it may say, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from facestream import EnrolmentRefused
from facestream.stream.enrol_table import read_table
from facestream.stream.gallery_records import Change


def write(folder: Path, *lines: str) -> Path:
    path = folder / "people.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_of_a_name_are_one_person_and_paths_are_relative(tmp_path: Path) -> None:
    found = read_table(
        write(
            tmp_path,
            "\ufeffpath, name ,notes,label:team,basis",
            'a/1.jpg,Anna  Smith,"day shift, gate",red,',
            "",
            "a/2.jpg,Anna Smith,,,consent 7",
            f"{tmp_path}/b.mp4,Bob,,,",
        )
    )
    change = Change(notes="day shift, gate", basis="consent 7", labels={"team": "red"})
    assert [(p.path, p.name, p.source, p.change) for p in found] == [
        (tmp_path / "a/1.jpg", "Anna Smith", "a/1.jpg (line 2)", change),
        (tmp_path / "a/2.jpg", "Anna Smith", "a/2.jpg (line 4)", change),
        (tmp_path / "b.mp4", "Bob", "b.mp4 (line 5)", None),
    ]
    assert [one.is_clip for one in found] == [False, False, True]


def test_semicolons_and_lines_within_cells(tmp_path: Path) -> None:
    found = read_table(write(tmp_path, "name;path;notes", 'A;1.jpg;"one', 'two"', "B;2.jpg;"))
    assert [(p.name, p.source) for p in found] == [("A", "1.jpg (line 3)"), ("B", "2.jpg (line 4)")]
    assert found[0].change == Change(notes="one\ntwo")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([""], "line 1: column path is missing"),
        (["path,note,name"], "line 1: column 'note' is not known: .*, the nearest is notes"),
        (["path,name,name"], "line 1: column name is there twice"),
        (["path,name,label:a=b"], "line 1: a label's key"),
        (["path,name"], "line 1: no photos"),
        (["path,name", "1.jpg,A", "2.jpg"], "line 3: expected 2 cells, got 1"),
        (["path,name", ",A"], "line 2: the path is empty"),
        (["path,name", "1.jpg,"], "line 2: a name must have at least one character"),
        (["path,name", "1.jpg,A", "1.jpg,B"], "line 3: 1.jpg is of B, and of A in line 2"),
        (["path,name", "1.jpg,Anna", "2.jpg,ANNA"], "line 3: the name ANNA differs from Anna in"),
        (["path,name,basis", "1.jpg,A,x", "2.jpg,A,y"], "line 3: basis of A differs .* line 2"),
        (["path,name", '1.jpg,"A'], "line 2: unexpected end of data"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_line(
    tmp_path: Path, lines: list[str], reason: str
) -> None:
    with pytest.raises(EnrolmentRefused, match=reason):
        read_table(write(tmp_path, *lines))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_bytes(b"path,name\n1.jpg,Andr\xe9\n")
    with pytest.raises(EnrolmentRefused, match="must be UTF-8 text, got other bytes in line 2"):
        read_table(tmp_path / "people.csv")
    with pytest.raises(EnrolmentRefused, match="cannot read the table"):
        read_table(tmp_path / "none.csv")
