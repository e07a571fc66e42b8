"""Reports: what is written is read back, shown in the terminal and on the page, and compared."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from facestream import ConfigError
from facestream.tools.report_compare import compare_numbers, compare_reports, holm, two_sided_p
from facestream.tools.report_page import render_page, write_page
from facestream.tools.report_plot import draw_plot, thin_curve
from facestream.tools.report_record import (
    Bad,
    Curve,
    Data,
    Example,
    Number,
    Plot,
    Result,
    Row,
    Table,
    load_report,
    measured,
    save_report,
    write_report,
)
from facestream.tools.report_text import number_words, print_report


def make_result(shift: float = 0.0, *, pairing: str = "p1", data: str = "d1") -> Result:
    draws = np.random.default_rng(3).normal(0.9 + shift, 0.01, 400)
    noise = np.random.default_rng(4).normal(0.5, 0.1, 400)
    table = Table(
        "Verification",
        "set",
        ["TAR", "EER", "pairs"],
        [
            Row(
                "<lfw>",
                [
                    measured(0.9 + shift, draws, spread=0.012),
                    measured(0.05, noise, better="lower"),
                    Number(6000, "count", better="neither"),
                ],
            ),
            Row("empty", [Number(None), "not told", Number(0, "count", better="neither")]),
        ],
        note="a note",
    )
    plot = Plot(
        "ROC", "FAR", "TAR", [Curve("x & y", [0.0, 1e-4, 1.0], [0.0, 0.5, 1.0])], x_log=True
    )
    report = write_report(
        "verification",
        "Verification: <lfw>",
        variant=["flip added", "at_most"],
        data=Data("lfw", data, {"pairs": "6,000"}),
        model={"Pack": f"tiny {shift}"},
        tables=[table],
        plots=[plot],
        bad=[Bad("pairs.txt:7", "no picture")] * 3,
        pairing=pairing,
    )
    keys = {"Verification / <lfw> / TAR": draws, "Verification / <lfw> / EER": noise}
    return Result(report, keys, [Example("Worst", "score 0.1", ["data:image/jpeg;base64,AA=="])])


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    result = make_result()
    save_report(result, tmp_path / "r")
    again = load_report(tmp_path / "r")
    assert again.report == result.report
    assert again.draws.keys() == result.draws.keys()
    for key, draws in result.draws.items():
        np.testing.assert_array_equal(again.draws[key], draws)
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["draws.npz", "report.json"]
    number = again.report.numbers()["Verification / <lfw> / TAR"]
    assert number.low is not None and number.low < 0.9 < (number.high or 0)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no report\.json"):
        load_report(tmp_path)
    for text in ("{}", "no json"):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ConfigError, match="is no report"):
            load_report(tmp_path)


def test_damaged_draws_are_said(tmp_path: Path) -> None:
    save_report(make_result(), tmp_path)
    whole = (tmp_path / "draws.npz").read_bytes()
    for damaged in (b"", whole[:200], b"no zip"):
        (tmp_path / "draws.npz").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"draws\.npz is damaged .*make the report again"):
            load_report(tmp_path)


def test_numbers_are_written_with_unit_interval_and_spread() -> None:
    assert number_words(Number(0.5)) == "50.00 %"
    assert number_words(Number(0.5, spread=0.01, low=0.4, high=0.6)) == (
        "50.00 % ± 1.00 [40.00, 60.00]"
    )
    assert number_words(Number(12345, "count")) == "12,345"
    assert number_words(Number(-0.012, "points")) == "-1.20 pp"
    assert number_words(Number(1.5, "seconds")) == "1.50 s"
    assert number_words(Number(0.00123, "area")) == "0.00123"
    assert number_words("as it is") == "as it is"


def test_the_terminal_shows_everything_in_80_columns() -> None:
    out = StringIO()
    print_report(make_result().report, Console(file=out, width=80, highlight=False))
    text = out.getvalue()
    for part in ("flip added", "fingerprint d1", "90.00 %", "± 1.20", "6,000", "undefined",
                 "left out: 3", "pairs.txt:7: no picture"):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_wide_table_is_spread_over_parts_and_cuts_nothing() -> None:
    columns = [f"TPIR@FPIR=1e-{n}" for n in range(1, 9)]
    cells: list[Number | str] = [Number(n / 10, low=0.0, high=1.0) for n in range(8)]
    table = Table("Open set", "protocol", columns, [Row("surveillance-to-surveillance", cells)])
    report = write_report("x", "x", variant=[], data=Data("d", "f", {}), model={}, tables=[table])
    out = StringIO()
    print_report(report, Console(file=out, width=80, highlight=False))
    text = out.getvalue()
    assert all(column in text for column in columns) and "…" not in text
    assert text.count("surveillance-to-surveillance") == 3
    assert all(f"{10 * n}.00 %" in text for n in range(8))
    assert max(map(len, text.splitlines())) <= 80


class Tags(HTMLParser):
    VOID = ("meta", "img", "line", "link", "path", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(v) for k, v in attrs if k in ("src", "href") and v is not None]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_asks_nobody_and_escapes_names(tmp_path: Path) -> None:
    write_page(make_result(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(link.startswith(("#", "data:")) for link in tags.links)
    assert "<lfw>" not in page and "&lt;lfw&gt;" in page
    assert "x &amp; y" in page
    for part in ("flip added", "fingerprint d1", "± 1.20", "pairs.txt:7", "personal data"):
        assert part in page


def test_a_page_without_examples_shows_no_faces() -> None:
    page = render_page(make_result()._replace(examples=[]))
    assert "<img" not in page and "personal data" not in page


def test_a_logarithmic_axis_has_its_decades_and_no_zero() -> None:
    svg = draw_plot(make_result().report.plots[0])
    assert '10<tspan dy="-5" font-size="75%">-4</tspan>' in svg
    points = re.search(r'<polyline class="c0" points="([^"]*)"', svg)
    assert points is not None and len(points.group(1).split()) == 2  # x = 0 is not drawn
    left = [float(pair.split(",")[0]) for pair in points.group(1).split()]
    assert left == [62.0, 506.0]


def test_stairs_are_drawn_as_stairs() -> None:
    plot = Plot("EDC", "x", "y", [Curve("q", [0.0, 0.5, 1.0], [0.2, 0.1, 0.0], steps=True)])
    points = re.search(r'points="([^"]*)"', draw_plot(plot))
    assert points is not None
    rows = [tuple(map(float, pair.split(","))) for pair in points.group(1).split()]
    # Horizontal, then vertical, and so on.
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(rows))


def test_a_curve_of_zeros_is_drawn_against_one() -> None:
    svg = draw_plot(Plot("ERC", "x", "FNMR", [Curve("q", [0.0, 0.5], [0.0, 0.0])]))
    assert ">1</text>" in svg and "e-0" not in svg


@pytest.mark.parametrize("curves", [[], [Curve("none", [], [])], [Curve("nan", [0.1], [np.nan])]])
def test_a_plot_without_points_is_still_a_plot(curves: list[Curve]) -> None:
    assert draw_plot(Plot("ROC", "x", "y", curves, x_log=True, y_log=True)).endswith("</svg>")


def test_a_long_curve_is_thinned_to_what_can_be_seen() -> None:
    x = np.geomspace(1e-6, 1, 100_000)
    y = (x > 1e-3).astype(float)
    few_x, few_y = thin_curve(np.append(0.0, x), np.append(0.0, y), floor=1e-6)
    assert len(few_x) <= 500 and few_x[0] == 1e-6 and few_x[-1] == 1.0
    edge = few_y.index(1.0)
    assert few_x[edge] / few_x[edge - 1] < 1.06  # within one cell: the step is still a step


def test_a_perfect_curve_is_a_line_from_the_least_rate_that_can_be_measured() -> None:
    x, y = thin_curve(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), floor=0.01)
    assert (x, y) == ([0.01, 1.0], [1.0, 1.0])
    svg = draw_plot(Plot("ROC", "FAR", "TAR", [Curve("perfect", x, y)], x_log=True))
    assert 'points="62.0,12.0 506.0,12.0"' in svg  # at the top, across the whole plot
    assert ">0.5<" in svg or ">0.4<" in svg


def test_comparison_finds_a_real_difference_and_not_chance() -> None:
    a, b = make_result(), make_result(0.02)
    by_key = {one.key: one for one in compare_numbers(a, b)}
    tar = by_key["Verification / <lfw> / TAR"]
    assert tar.significant and tar.difference.value == pytest.approx(0.02)
    assert tar.difference.low == pytest.approx(0.02) and tar.p == pytest.approx(2 / 401)
    eer = by_key["Verification / <lfw> / EER"]
    assert not eer.significant and eer.p == 1.0
    assert "Verification / <lfw> / pairs" not in by_key  # a count of pairs is not better or worse
    report = compare_reports(a, b).report
    verdicts = {row.label: row.cells[-1] for row in report.tables[0].rows}
    assert verdicts["Verification / <lfw> / TAR"] == "B is better"
    assert verdicts["Verification / <lfw> / EER"] == "no difference shown"
    assert [curve.label for curve in report.plots[0].curves] == ["A: x & y", "B: x & y"]


def test_draws_are_paired_by_resample_also_where_some_are_undefined() -> None:
    a, b = make_result(), make_result(0.05)
    key = "Verification / <lfw> / TAR"
    a.draws[key][:100], b.draws[key][50:110] = np.nan, np.nan
    tar, _ = compare_numbers(a, b)
    assert tar.difference.low == pytest.approx(0.05)  # the shift of every draw of both
    assert tar.p == pytest.approx(2 / 291) and tar.significant
    b.draws[key][:] = np.nan
    tar, _ = compare_numbers(a, b)
    assert tar.p is None and tar.difference.low is None


def test_a_number_that_one_report_cannot_give_is_shown_and_not_tested() -> None:
    a, b = make_result(), make_result()
    row = b.report.tables[0].rows[0]
    row.cells[0] = Number(None)
    tar, _ = compare_numbers(a, b)
    assert tar.second.value is None and tar.difference.value is None and tar.p is None
    cells = compare_reports(a, b).report.tables[0].rows[0].cells
    assert cells[3:] == ["", "not tested"]


def test_a_comparison_is_not_compared_again() -> None:
    done = compare_reports(make_result(), make_result(0.05))
    with pytest.raises(ConfigError, match="cannot be compared again"):
        compare_reports(done, done)


def test_a_comparison_says_where_the_variants_differ() -> None:
    a, b = make_result(), make_result()
    other = msgspec.structs.replace(b.report, variant=["flip added", "nearest"])
    variant = compare_reports(a, b._replace(report=other)).report.variant
    assert variant[-3:] == ["both: flip added", "only A: at_most", "only B: nearest"]


def test_without_the_same_resamples_nothing_is_called_significant() -> None:
    report = compare_reports(make_result(), make_result(0.02, pairing="other")).report
    assert any("no significance" in line for line in report.variant)
    assert {row.cells[-1] for row in report.tables[0].rows} == {"not tested"}


def test_other_data_or_another_protocol_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match=r"same data, got fingerprints d1 .* d2"):
        compare_reports(make_result(), make_result(data="d2"))


def test_holm_by_hand_and_the_smallest_p() -> None:
    assert holm([0.004, 0.03, 0.02, None]) == [True, True, True, False]
    assert holm([0.03, 0.03, 0.02]) == [False, False, False]
    assert two_sided_p(np.ones(99)) == 0.02
    assert two_sided_p(np.zeros(10)) == 1.0
