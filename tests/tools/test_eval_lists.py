"""Lists of pairs, read exactly as they are distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facestream import ConfigError
from facestream.tools.eval_lists import folder_of, guess_kind, read_pairs, stem_of
from facestream.tools.report_record import Bad

LFW = """2\t2
Ada_King\t1\t2
Bo\t3\t11
Ada_King\t1\tBo\t3
Bo\t1\tCy_Lo\t1
Cy_Lo\t1\t2
Cy_Lo\t2\t3
Cy_Lo\t1\tBo\t3
Ada_King\t2\tCy_Lo\t3
"""


def write(folder: Path, text: str, name: str = "pairs.txt") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_lfw_has_folds_names_and_numbers_of_four_digits(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, LFW))
    assert pairs.items[:3] == [
        "Ada_King/Ada_King_0001.jpg",
        "Ada_King/Ada_King_0002.jpg",
        "Bo/Bo_0003.jpg",
    ]
    assert pairs.items[3] == "Bo/Bo_0011.jpg"
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.folds is not None and pairs.folds.tolist() == [0] * 4 + [1] * 4
    assert pairs.subjects is not None and len(set(pairs.subjects.tolist())) == 3
    np.testing.assert_array_equal(
        pairs.subjects[pairs.first] == pairs.subjects[pairs.second], pairs.same
    )


def test_calfw_and_cplfw_write_a_pair_on_two_lines(tmp_path: Path) -> None:
    # CALFW numbers the folds of its genuine pairs, so every label but 0 means "same".
    text = "Ada_King_0001.jpg 3\nAda_King_0007.jpg 3\nAda_King_0001.jpg 0\nBo_0002.jpg 0\n"
    pairs = read_pairs(write(tmp_path, text))
    assert pairs.same.tolist() == [True, False] and pairs.folds is None
    assert pairs.subjects is not None and pairs.subjects.tolist() == [0, 0, 1]


def test_a_plain_list_names_two_pictures_and_a_label(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n"))
    assert pairs.same.tolist() == [True, False]
    assert pairs.subjects is not None and pairs.subjects.tolist() == [0, 0, 1]


def test_names_that_contradict_the_labels_tell_no_identities(tmp_path: Path) -> None:
    text = "gallery/17.jpg probe/17.jpg 1\ngallery/17.jpg probe/18.jpg 0\n"
    assert read_pairs(write(tmp_path, text)).subjects is None


def test_ytf_pairs_videos_in_splits(tmp_path: Path) -> None:
    text = "split number, first name, second name, is same\n1, Ada/0, Bo/3, 0\n2, Ada/0, Ada/4, 1\n"
    pairs = read_pairs(write(tmp_path, text, "splits.txt"))
    assert pairs.items == ["Ada/0", "Bo/3", "Ada/4"]
    assert pairs.folds is not None and pairs.folds.tolist() == [1, 2]
    assert pairs.same.tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("1\t1\nAda\t1\tx\nAda\t1\tBo\t1\n", 2, "name n n"),
        ("1\t2\nAda\t1\t2\nAda\t1\tBo\t1\n", 1, "promises 4 pairs, the list has 2"),
        ("a.jpg b.jpg 1\na.jpg 1\n", 2, "picture picture 1|0"),
        ("a.jpg b.jpg 1\na.jpg b.jpg 2\n", 2, "picture picture 1|0"),
        ("a.jpg 1\nb.jpg 1\na.jpg 1\nb.jpg 0\n", 3, "two lines with one label"),
        ("a.jpg 1\nb.jpg 1\na.jpg 1\n", 3, "alone"),
        ("n, a, b, same\n1, Ada/0, Bo, 0\n", 2, "name/video"),
    ],
)
def test_a_malformed_line_is_named_and_can_be_left_out(
    tmp_path: Path, text: str, line: int, why: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"pairs.txt:{line}: .*") as caught:
        read_pairs(path)
    assert why in str(caught.value) and "--skip-bad" in str(caught.value)
    bad: list[Bad] = []
    try:
        read_pairs(path, bad=bad)
    except ConfigError as error:
        assert "got none" in str(error)  # nothing was left
    assert [one.where for one in bad] == [f"pairs.txt:{line}"]


def test_a_line_left_out_moves_no_other_pair_into_another_fold(tmp_path: Path) -> None:
    broken = LFW.replace("Bo\t3\t11\n", "Bo\t3\n")
    pairs = read_pairs(write(tmp_path, broken), bad=[])
    assert pairs.folds is not None and pairs.folds.tolist() == [0] * 3 + [1] * 4


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    for text in ("", "hello\n", "one two three four five\n"):
        with pytest.raises(ConfigError, match=r"expected a list of pairs .*--kind"):
            read_pairs(write(tmp_path, text))
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="other bytes"):
        read_pairs(tmp_path / "p.txt")


@pytest.mark.parametrize(
    ("line", "kind"),
    [("10\t300", "lfw"), ("500", "lfw"), ("a.jpg b.jpg 0", "list"), ("a.jpg 1", "two-lines")],
)
def test_the_kind_shows_in_the_first_line(line: str, kind: str) -> None:
    assert guess_kind(Path("x"), [(1, line)]) == kind


def test_owners_come_from_folders_and_stems() -> None:
    assert folder_of("a/b/1.jpg") == "b" and folder_of("1.jpg") == ""
    assert stem_of("Ada_B_0012.png") == "Ada_B"
