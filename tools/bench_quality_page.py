"""The page that `facestream bench quality` writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .. import __version__
from .bench_accuracy_page import markdown
from .bench_degraded import LONDON, WILD
from .bench_quality import COLUMNS, FREE, IMPOSTORS, LIGHTQNET, LIMIT, Areas
from .bench_quality_faces import PROBED
from .report_record import Number
from .revision import revision

if TYPE_CHECKING:
    from .eval_verification import Bootstrap

Found = Mapping[tuple[str, str], Mapping[str, Areas]]


def write_page(
    found: Found, sizes: Mapping[tuple[str, str], str], text: tuple[str, Bootstrap]
) -> str:
    """The whole page in Markdown; areas by pack and set, and in words how large each set is.

    text: the command and the bootstrap.
    """
    parts = [heading(*text)]
    for (pack, faces), sources in found.items():
        parts += [f"## Pack `{pack}`, {faces}", "", sizes[pack, faces], ""]
        parts += [*source_table(sources), ""]
        for base in (LIGHTQNET, FREE):
            if base in sources:
                parts += [f"Against {base}:", "", *difference_table(sources, base), ""]
    return "\n".join(parts)


def heading(command: str, bootstrap: Bootstrap) -> str:
    """What was measured, and how."""
    resamples, seed = bootstrap
    return f"""# Quality: error versus discard

Written by

    {command}

on {datetime.now(UTC):%Y-%m-%d}, facestream {__version__}, revision {revision()}.

Area under FNMR against the share of pairs that is discarded by quality, worst first; lower is
better. *EDC*: the threshold is set once, genuine pairs are discarded, area to {LIMIT:g} (ISO/IEC
29794-1). *ERC*: the worst of all pairs go and the threshold is set anew, area to 0.95 (the papers).
A pair's quality is the smaller of its faces'. Areas are times 1,000, in brackets the 95 % bootstrap
interval over people ({resamples} resamples, seed {seed}); differences are paired, **bold** where
the interval leaves out 0, and negative is better.

- **London**: the split's role subject; every neutral photo as taken is a reference, every smiling
  one is seen as taken and in {LONDON.runs * LONDON.frames} degraded views.
- **wild**, research only: CelebA's in-the-wild part; one picture of each person is the reference,
  {PROBED} others are seen as they are and in {WILD.runs * WILD.frames} degraded views. No picture
  is shown. Nothing trained or fitted here saw these people; what the published embedders saw is
  not documented.

Each view is compared with the reference of its person and with {IMPOSTORS} of others. Heads read
what the embedder gives (models/quality_head) and were trained on the split's role training by
`facestream train fiqa`: on the pack's own quality *raw*; *optimised* by mated pairs with the
published theta and with a large one; and on the cosine of each view with its picture as taken (*raw
cosines*). The other pack's heads read its features of the same faces: quality across packs.
"""


def source_table(sources: Mapping[str, Areas]) -> list[str]:
    """One row for each source."""
    rows = [[name, *(area(one.numbers[c]) for c in COLUMNS)] for name, one in sources.items()]
    return markdown(["Source", *COLUMNS], rows)


def difference_table(sources: Mapping[str, Areas], base: str) -> list[str]:
    """Every other source against one."""
    rows = []
    for name, one in sources.items():
        if name != base:
            differences = one.against(sources[base])
            rows.append([name, *(difference(differences[c]) for c in COLUMNS)])
    return markdown(["Source", *COLUMNS], rows)


def area(number: Number) -> str:
    """An area times 1,000.

    >>> area(Number(0.0295, "area", 0.02, 0.04))
    '29.5 (20.0–40.0)'
    """
    if number.value is None:
        return "–"
    text = f"{1000 * number.value:.1f}"
    if number.low is not None and number.high is not None:
        text += f" ({1000 * number.low:.1f}–{1000 * number.high:.1f})"
    return text


def difference(number: Number) -> str:
    """A difference of areas times 1,000, bold where its interval leaves out 0.

    >>> difference(Number(-0.002, "area", -0.003, -0.001))
    '**-2.0** (-3.0 to -1.0)'
    """
    if number.value is None:
        return "–"
    text = f"{1000 * number.value:+.1f}"
    if number.low is None or number.high is None:
        return text
    if number.low > 0 or number.high < 0:
        text = f"**{text}**"
    return f"{text} ({1000 * number.low:+.1f} to {1000 * number.high:+.1f})"
