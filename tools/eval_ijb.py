"""`facestream evaluate ijb`: IJB-B and IJB-C from their lists to a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import ConfigError
from ..models.feature_store import fingerprint_parts
from .eval_ijb_lists import IjbFiles, find_files
from .eval_ijb_live import check_live
from .eval_ijb_measures import IjbChoices, Part, cluster_faces, identify_probes, verify_pairs
from .eval_ijb_pictures import probe_examples
from .eval_ijb_set import read_ijb
from .eval_options import Source
from .eval_output import model_words
from .report_record import Bad, Data, Example, Result, write_report

PROTOCOLS = ("1:1", "1:N", "clustering")


def evaluate_ijb(folder: Path, name: str | None, choices: IjbChoices, source: Source) -> Result:
    """Read the lists, embed, and measure every protocol asked for.

    Raises ConfigError for malformed or missing input, and what `open_pack` raises.
    """
    bad: list[Bad] = []
    files = find_files(folder, name)
    _need_lists(files, choices.protocols)
    live = choices.live
    reads_styles = live is not None and live.reads_styles
    chosen = read_ijb(files, choices.pooling, source, bad, styles=reads_styles)
    if live is not None:
        check_live(live, chosen.store)
    measures = {"1:1": verify_pairs, "1:N": identify_probes, "clustering": cluster_faces}
    parts: list[Part] = [
        measures[protocol](chosen, choices, source.skip_bad, bad) for protocol in choices.protocols
    ]
    listed = [files.media, files.landmarks, files.pairs, *files.galleries, files.probe]
    lists = [path for path in listed if path is not None]
    fingerprint = fingerprint_parts(
        [
            ("features", chosen.store.key.data.encode()),
            # Mapped and not read: the list of pairs may have hundreds of megabytes.
            *((path.name, np.memmap(path, np.uint8, "r").data) for path in lists),
        ]
    )
    facts = {"pictures": f"{len(chosen.media.names):,}"}
    report = write_report(
        "ijb",
        f"{files.name.upper()}: {', '.join(choices.protocols)}",
        variant=[
            choices.words,
            *(line for part in parts for line in part.variant),
        ],
        data=Data(
            files.name,
            fingerprint,
            facts | {name: fact for part in parts for name, fact in part.facts.items()},
        ),
        model=model_words(chosen.store),
        tables=[table for part in parts for table in part.tables],
        plots=[plot for part in parts for plot in part.plots],
        bad=bad,
        pairing=f"{fingerprint} {choices.bootstrap}",
    )
    draws = {k: d for part in parts for k, d in part.draws.items()}
    groups = [group for part in parts for group in part.telling]
    examples: list[Example] = []
    if groups and source.features is None:
        examples = probe_examples(groups, chosen, source)
    return Result(report, draws, examples)


def _need_lists(files: IjbFiles, protocols: Sequence[str]) -> None:
    """Raise ConfigError, before anything is embedded, where a protocol's lists are not there."""
    have = {
        "1:1": files.pairs is not None,
        "1:N": bool(files.galleries) and files.probe is not None,
        "clustering": files.probe is not None,
    }
    for protocol in protocols:
        if not have[protocol]:
            raise ConfigError(
                f"{files.media.parent}: {protocol} needs lists that are not here (pairs, or the "
                "1:N galleries and probes): name those to measure with --protocol"
            )
