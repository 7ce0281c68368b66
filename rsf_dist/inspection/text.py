"""An inspection in words, for the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rsf_dist.data.sources.base import printable
from rsf_dist.data.sources.found_files import kind_of_suffix
from rsf_dist.inspection.findings import Finding
from rsf_dist.inspection.inspection import Inspection
from rsf_dist.inspection.survey import Survey

_MOST_SIZES, _MOST_CLASSES = 5, 60


def format_inspection(inspection: Inspection) -> str:
    """Return an inspection as lines for the terminal."""
    lines = [line for each in inspection.surveys for line in _survey(each)]
    lines += _classes(inspection.surveys)
    refused = [finding for finding in inspection.all_findings() if finding.refused]
    others = [finding for finding in inspection.all_findings() if not finding.refused]
    lines += _findings("a run would refuse" if refused else "", refused)
    lines += _findings("worth a look" if others else "nothing suspicious was found" if not refused else "", others)
    return "\n".join(lines)


def _survey(each: Survey) -> Iterator[str]:
    taken = f"{len(each.taken):,} images"
    if len(each.taken) < each.num_listed:
        taken += f" of {each.num_listed:,}"
    kind = "" if each.counts is not None else ", unlabelled" if each.boxes is None else ", with boxes"
    if each.in_masks() is not None:
        kind = ", with masks"
    if each.listing is None:
        taken, kind = "cannot be listed", ""
    yield printable(f"{each.name or 'images'}: {taken}{kind} ({each.place})")
    sizes = [f"{height} x {width} ({count:,})" for (height, width), count in each.headers.sizes.most_common()]
    if sizes:
        more = f" and {len(sizes) - _MOST_SIZES:,} more" if len(sizes) > _MOST_SIZES else ""
        yield f"  height x width  {', '.join(sizes[:_MOST_SIZES])}{more}"
    modes = [f"{mode} ({count:,})" for mode, count in each.headers.modes.most_common()]
    if modes:
        yield f"  modes           {', '.join(modes)}"
    for suffix, files in each.passed_over.items():
        named = f"{files.count:,} {suffix or 'without a suffix'}{kind_of_suffix(suffix)}"
        yield printable(f"  passed over     {named}: {', '.join(files.examples)}")


def _classes(surveys: tuple[Survey, ...]) -> Iterator[str]:
    """Yield a table of the classes: images, boxes or masks in each set."""
    columns = {each.name or "images": _counted(each) for each in surveys if _counted(each)}
    names = list(dict.fromkeys(name for counted in columns.values() for name in counted))
    if not columns:
        return
    width = max(len(name) for name in [*names[:_MOST_CLASSES], "class"])
    units = {_unit(each) for each in surveys if _counted(each)}
    yield f"{' and '.join(sorted(units))} by class"
    yield f"  {'':{width}}  {'  '.join(f'{name:>8}' for name in columns)}"
    for name in names[:_MOST_CLASSES]:
        cells = [f"{counted[name]:,}" if name in counted else "-" for counted in columns.values()]
        row = "  ".join(f"{cell:>{max(8, len(head))}}" for cell, head in zip(cells, columns, strict=True))
        yield printable(f"  {name:{width}}  {row}")
    if len(names) > _MOST_CLASSES:
        yield f"  and {len(names) - _MOST_CLASSES:,} more classes (--json lists them all)"


def _counted(each: Survey) -> dict[str, int]:
    counts = each.counts or each.boxes or each.in_masks()
    return {} if counts is None else dict(zip(each.classes, counts, strict=True))


def _unit(each: Survey) -> str:
    if each.counts is not None:
        return "images"
    return "boxes" if each.boxes is not None else "masks (of those that were looked at)"


def _findings(title: str, findings: list[Finding]) -> Iterator[str]:
    if title:
        yield title
    for finding in findings:
        yield f"  - {printable(finding.line())}"
        if len(finding.examples) > 1:
            yield from (f"      {printable(example)}" for example in finding.examples)


def to_dict(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as JSON holds it."""
    return {
        "sets": {each.name or "images": _survey_dict(each) for each in inspection.surveys},
        "findings": [_finding_dict(finding) for finding in inspection.all_findings()],
        "refused": inspection.refused,
    }


def _survey_dict(each: Survey) -> dict[str, Any]:
    sizes = each.headers.sizes.most_common()
    return {
        "config": each.config.model_dump(mode="json", exclude_none=True),
        "num_images": len(each.taken),
        "num_listed": each.num_listed,
        "images_by_class": _by_class(each, each.counts),
        "boxes_by_class": _by_class(each, each.boxes),
        "masks_looked_at_by_class": _by_class(each, each.in_masks()),
        "sizes": [{"height": height, "width": width, "count": count} for (height, width), count in sizes],
        "modes": dict(each.headers.modes),
        "passed_over": [
            {"suffix": suffix, "count": files.count, "examples": list(files.examples)}
            for suffix, files in each.passed_over.items()
        ],
    }


def _by_class(each: Survey, counts: tuple[int, ...] | None) -> dict[str, int] | None:
    return None if counts is None else dict(zip(each.classes, counts, strict=True))


def _finding_dict(finding: Finding) -> dict[str, Any]:
    examples = list(finding.examples)
    return {"where": finding.where, "text": finding.text, "refused": finding.refused, "examples": examples}
