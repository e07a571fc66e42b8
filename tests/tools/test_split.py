"""The split of the licence-clean faces: one role each, and the roles that others rely on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from facestream import ConfigError, SourceCorrupt
from facestream.configs.split import (
    COLUMNS,
    ROLES,
    checksum,
    identities,
    parse_split,
    read_split,
    split_pictures,
)
from facestream.tools.sim_cast import cast_from_assets
from facestream.train.folders import picture_paths

HEADER = ",".join(COLUMNS)


def test_every_identity_has_one_role_and_every_role_has_identities() -> None:
    split = read_split()
    by_role = {role: set(identities(role)) for role in ROLES}
    assert all(by_role.values())
    assert sum(len(names) for names in by_role.values()) == len(split)
    assert set().union(*by_role.values()) == set(split)


def test_an_identity_with_two_roles_is_refused() -> None:
    lines = [HEADER, "london/001,subject,ab", "london/001,calibration,ab"]
    with pytest.raises(ConfigError, match=r"line 3: london/001 has a role already"):
        parse_split(lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["name,role"], "begins with the line identity,role,sha256"),
        ([HEADER, "london/001,hero,ab"], "line 2: expected a role of training.*got 'hero'"),
        ([HEADER, "# a remark", "london/001,subject"], "line 3: expected identity, role, sha256"),
    ],
)
def test_a_malformed_split_names_its_line(lines: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_split(lines)


def test_the_london_set_is_shared_between_thresholds_and_subjects() -> None:
    """Both need two photos of one person, and only this set has them."""
    counts = Counter(one.role for name, one in read_split().items() if name.startswith("london/"))
    assert counts == {"calibration": 51, "subject": 51}


def test_the_anchors_are_every_second_picture() -> None:
    """`facestream train anchors FACES --every 2`: the first picture, the third, ..."""
    numbers = sorted(int(name.removeprefix("sfhq/")) for name in identities("anchor"))
    assert numbers == list(range(0, 1928, 2))


def test_the_split_is_complete_against_the_pictures(assets: Path) -> None:
    split = read_split()
    london = {f"london/{p.stem.partition('_')[0]}" for p in (assets / "london").rglob("*.jpg")}
    synthetic = {f"sfhq/{path.stem}" for path in picture_paths(assets / "anchors")}
    assert set(split) == london | synthetic
    for name, one in split.items():
        assert checksum(split_pictures(assets, name)) == one.sha256, name


def test_the_anchors_are_those_that_training_takes(assets: Path) -> None:
    taken = {f"sfhq/{path.stem}" for path in picture_paths(assets / "anchors")[::2]}
    assert taken == set(identities("anchor"))


def test_a_simulation_takes_its_people_from_the_split(assets: Path) -> None:
    cast = cast_from_assets(assets)
    assert {one.name for one in cast.subjects} == set(identities("subject"))
    assert {one.name for one in cast.passers_by} == set(identities("passer-by"))
    for one in cast.subjects:
        assert not set(one.enrol) & set(one.render), "enrolled from the photo that is rendered"


def test_other_pictures_under_a_known_number_are_refused(tmp_path: Path) -> None:
    for name in identities("subject"):
        folder = tmp_path / "london" / "probe_smiling"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name.removeprefix('london/')}_08.jpg").write_bytes(b"another")
    with pytest.raises(SourceCorrupt, match="are not those of the split"):
        cast_from_assets(tmp_path)
