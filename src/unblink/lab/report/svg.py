"""Draws a cell's figure as one inline SVG.

Colours are those of the page's CSS; shapes and words carry the meaning without them.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, product
from math import floor, log10
from typing import NamedTuple

from markupsafe import Markup

from unblink.lab.report.figure import Figure, Lane, Mark, Sample, Strip, seconds

_WIDTH, _LEFT, _RIGHT = 1100, 205, 1080
_TOP, _LABEL_ROW, _TICK_ROW, _LANE_GAP = 8, 13, 16, 14
_UNACKED_ROW, _STATE_ROW, _STRIP_GAP = 12, 15, 8
_AXIS = 26
_CHARACTER = 6.3
_COLUMN = 2.0
_LABEL_ROWS = 4

# Which label wins where two do not fit.
_PRIORITY = ("fault-on", "first", "detector", "ended", "fault-off", "proof", "last", "relist", "list", "watch", "echo")

_WORST_FIRST = ("persist", "retransmit", "keepalive", "no timer", "connecting", "closing")

# Each shape is centred on (0, 0), about 10 high.
_SHAPES = {
    "fault-on": "M-5,-5H5L0,5Z",
    "fault-off": "M-5,5H5L0,-5Z",
    "proof": "M0,-5A5,5,0,1,1,0,5A5,5,0,1,1,0,-5M0,-2A2,2,0,1,0,0,2A2,2,0,1,0,0,-2",
    "watch": "M-3,-5L5,0L-3,5Z",
    "list": "M-4,-4H4V4H-4Z",
    "relist": "M-4,-4H4V4H-4Z",
    "ended": "M-5,-5L5,5M-5,5L5,-5",
    "last": "M4,-5V5M4,0H-5M-1,-4L4,0L-1,4",
    "first": "M-4,-5V5M-4,0H5M1,-4L5,0L1,4",
    "detector": "M0,-6L6,0L0,6L-6,0Z",
    "echo": "M-5,0L-1,4L5,-5",
    "other": "M-3,-3H3V3H-3Z",
}


def draw(figure: Figure, name: str, title: str) -> Markup:
    """The SVG element; ``name`` makes its ids unique in the page, ``title`` and the words of the story describe it."""
    return Markup("").join(_Drawing(figure, name).elements(title))


def shape(kind: str) -> Markup:
    """One mark alone, for a legend."""
    path = _SHAPES.get(kind, _SHAPES["other"])
    return Markup(
        '<svg class="key" viewBox="-8 -8 16 16" aria-hidden="true"><path class="mark {}" d="{}"/></svg>'
    ).format(kind, path)


def _classes(kind: str) -> str:
    return "k-" + kind.replace(" ", "-")


class _Label(NamedTuple):
    """Words at (x, row), row 0 nearest to the lane; ``mark_x`` is what they belong to."""

    text: str
    css: str
    x: float
    row: int
    mark_x: float


class _Drawing:
    def __init__(self, figure: Figure, name: str) -> None:
        self.figure = figure
        self.name = name
        self.labels = [list(_placed(self.wanted_labels(lane))) for lane in figure.lanes]
        self.lane_rows: list[float] = []
        y = float(_TOP)
        for labels in self.labels:
            y += _LABEL_ROW * max((label.row + 1 for label in labels), default=0)
            self.lane_rows.append(y)
            y += _TICK_ROW + _LANE_GAP
        self.axis_y = y
        y += _AXIS
        self.strip_tops: list[float] = []
        for _ in figure.strips:
            self.strip_tops.append(y)
            y += _UNACKED_ROW + _STATE_ROW + _STRIP_GAP
        self.height = y

    def x(self, t: float) -> float:
        span = max(self.figure.end - self.figure.start, 0.001)
        share = (min(max(t, self.figure.start), self.figure.end) - self.figure.start) / span
        return round(_LEFT + share * (_RIGHT - _LEFT), 1)

    def shows(self, t: float) -> bool:
        return self.figure.start <= t <= self.figure.end

    def elements(self, title: str) -> Iterator[Markup]:
        yield Markup(
            '<svg class="timeline" role="img" viewBox="0 0 {} {}" aria-labelledby="{}-title {}-desc">'
            '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>'
        ).format(_WIDTH, self.height, self.name, self.name, self.name, title, self.name, self.description())
        yield Markup(
            '<defs><pattern id="{}-hatch" width="7" height="7" patternUnits="userSpaceOnUse"'
            ' patternTransform="rotate(45)"><path class="hatch" d="M0,0V7"/></pattern></defs>'
        ).format(self.name)
        yield from self.axis()
        yield from self.fault()
        for lane, row, labels in zip(self.figure.lanes, self.lane_rows, self.labels, strict=True):
            yield from self.lane(lane, row, labels)
        for strip, top in zip(self.figure.strips, self.strip_tops, strict=True):
            yield from self.strip(strip, top)
        yield Markup("</svg>")

    def description(self) -> str:
        return "; ".join(f"{seconds(t)} {who} {what}" for t, who, what in self.figure.story[:40])

    def axis(self) -> Iterator[Markup]:
        bottom = self.height - _STRIP_GAP
        for t in axis_ticks(self.figure.start, self.figure.end):
            x = self.x(t)
            yield Markup('<path class="grid" d="M{},{}V{}"/>').format(x, _TOP, bottom)
            yield Markup('<text class="axis" x="{}" y="{}">{}</text>').format(x, self.axis_y + 14, f"{t:g} s")
        yield Markup('<path class="line" d="M{},{}H{}"/>').format(_LEFT, self.axis_y, _RIGHT)

    def fault(self) -> Iterator[Markup]:
        if self.figure.fault_on is None:
            return
        left = self.x(self.figure.fault_on)
        right = self.x(self.figure.end if self.figure.fault_off is None else self.figure.fault_off)
        height = self.height - _STRIP_GAP - _TOP
        yield Markup('<rect class="fault" x="{}" y="{}" width="{}" height="{}"/>').format(
            left, _TOP, round(max(right - left, 0), 1), height
        )
        yield Markup('<path class="fault-edge" d="M{},{}v{}"/>').format(left, _TOP, height)

    def lane(self, lane: Lane, row: float, labels: list[_Label]) -> Iterator[Markup]:
        middle = row + _TICK_ROW / 2
        yield _names(lane.name, lane.note, middle)
        yield Markup('<path class="base" d="M{},{}H{}"/>').format(_LEFT, row + _TICK_ROW, _RIGHT)
        if lane.open_from is not None and lane.open_to is not None:
            left, right = self.x(lane.open_from), self.x(lane.open_to)
            yield Markup('<rect class="open" x="{}" y="{}" width="{}" height="6" rx="3"/>').format(
                left, middle - 3, round(max(right - left, 0), 1)
            )
        if lane.blind:
            yield from self.blind(lane, row)
        if lane.ticks:
            columns = sorted({round(self.x(t) / _COLUMN) * _COLUMN for t in lane.ticks if self.shows(t)})
            path = "".join(f"M{x:g},{row + 3:g}v{_TICK_ROW - 3}" for x in columns)
            yield Markup('<path class="tick" d="{}"/>').format(path)
        if lane.bound_at is not None and lane.bound_at <= self.figure.end:
            yield Markup('<path class="bound" d="M{},{}v{}"/>').format(self.x(lane.bound_at), row - 2, _TICK_ROW + 4)
        for label in labels:
            if label.row or label.css == "bound-label":
                bottom = row - _LABEL_ROW * label.row
                yield Markup('<path class="leader" d="M{},{}V{}"/>').format(label.mark_x, middle, bottom)
        for mark in reversed(self.shown(lane)):
            yield Markup('<g transform="translate({},{})"><title>{}</title><path class="mark {}" d="{}"/></g>').format(
                self.x(mark.t), middle, mark.detail, mark.kind, _SHAPES.get(mark.kind, _SHAPES["other"])
            )
        for label in labels:
            y = row - _LABEL_ROW * label.row - 3
            yield Markup('<text class="{}" x="{}" y="{}">{}</text>').format(label.css, label.x, y, label.text)

    def shown(self, lane: Lane) -> list[Mark]:
        """The lane's marks in the picture, the weightiest first; of those of one kind in one place only the first."""
        places: dict[tuple[str, int], Mark] = {}
        for mark in lane.marks:
            if self.shows(mark.t):
                places.setdefault((mark.kind, int(self.x(mark.t) / 4)), mark)
        return sorted(places.values(), key=_priority)

    def wanted_labels(self, lane: Lane) -> Iterator[tuple[str, str, float]]:
        if lane.bound_at is not None:
            late = lane.bound_at > self.figure.end
            yield (
                f"{lane.bound_label}, after the end →" if late else lane.bound_label,
                "bound-label",
                self.x(lane.bound_at),
            )
        for mark in self.shown(lane):
            if mark.label:
                yield mark.label, f"label {mark.kind}", self.x(mark.t)

    def blind(self, lane: Lane, row: float) -> Iterator[Markup]:
        assert lane.blind
        left, right = self.x(lane.blind[0]), self.x(lane.blind[1])
        width = round(max(right - left, 1), 1)
        box = Markup('x="{}" y="{}" width="{}" height="{}"').format(left, row + 1, width, _TICK_ROW - 1)
        yield Markup('<rect class="blind" {}/><rect fill="url(#{}-hatch)" {}/>').format(box, self.name, box)
        inside = sorted(x for mark in self.shown(lane) if left < (x := self.x(mark.t)) < right)
        free, at = max((after - before, (before + after) / 2) for before, after in pairwise([left, *inside, right]))
        if free > len(lane.blind_label) * _CHARACTER + 14:
            yield Markup('<text class="blind-label" x="{}" y="{}">{}</text>').format(
                round(at, 1), row + 12.5, lane.blind_label
            )

    def strip(self, strip: Strip, top: float) -> Iterator[Markup]:
        yield _names(strip.name, strip.note, top + _UNACKED_ROW + _STATE_ROW / 2 - 3)
        row = top + _UNACKED_ROW
        last = strip.samples[-1].t if strip.gone_at is None else strip.gone_at
        columns = list(_columns((sample for sample in strip.samples if self.shows(sample.t)), self.x))
        if not columns:
            return
        ends = [x for x, _, _ in columns[1:]] + [max(self.x(last), columns[-1][0] + _COLUMN)]
        for left, right, kind in _runs([(x, end, kind) for (x, kind, _), end in zip(columns, ends, strict=True)]):
            width = round(right - left, 1)
            yield Markup('<g><title>{}</title><rect class="state {}" x="{}" y="{}" width="{}" height="{}"/>').format(
                kind, _classes(kind), left, row, width, _STATE_ROW
            )
            if width > len(kind) * _CHARACTER + 6:
                yield Markup('<text class="state-label" x="{}" y="{}">{}</text>').format(
                    round((left + right) / 2, 1), row + 11.5, kind
                )
            yield Markup("</g>")
        if strip.gone_at is not None and self.shows(strip.gone_at):
            x = self.x(strip.gone_at)
            yield Markup(
                '<g transform="translate({},{})"><title>{}</title><path class="mark ended" d="{}"/></g>'
            ).format(x, row + _STATE_ROW / 2, f"gone at {seconds(strip.gone_at)}", _SHAPES["ended"])
            if x < _RIGHT - 45:
                yield Markup('<text class="note start" x="{}" y="{}">gone</text>').format(x + 9, row + 11.5)
        yield from _unacked(columns, ends, row)


def _names(name: str, note: str, middle: float) -> Markup:
    return Markup('<text class="name" x="{}" y="{}">{}</text><text class="note" x="{}" y="{}">{}</text>').format(
        _LEFT - 12, middle, name, _LEFT - 12, middle + 12, note
    )


def _priority(mark: Mark) -> int:
    return _PRIORITY.index(mark.kind) if mark.kind in _PRIORITY else len(_PRIORITY)


def _placed(wanted: Iterable[tuple[str, str, float]]) -> Iterator[_Label]:
    """Give each label the nearest free place: over its mark, else to its right or left; none is left to the tooltip."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(_LABEL_ROWS)]
    for text, css, mark_x in wanted:
        width = len(text) * _CHARACTER
        lefts = (mark_x - width / 2, mark_x - 6, mark_x + 6 - width)
        for row, wished in product(range(_LABEL_ROWS), lefts):
            left = min(max(wished, _LEFT - 8), _WIDTH - width)
            if all(left > end + 5 or left + width < start - 5 for start, end in taken[row]):
                taken[row].append((left, left + width))
                yield _Label(text, css, round(left + width / 2, 1), row, mark_x)
                break


def _columns(samples: Iterable[Sample], x: Callable[[float], float]) -> Iterator[tuple[float, str, int]]:
    """Samples thinned to one in each column of the picture: the worst kind and the most unacknowledged."""
    column: tuple[float, str, int] | None = None
    for sample in samples:
        at = round(x(sample.t) / _COLUMN) * _COLUMN
        if column and column[0] == at:
            worst = min(column[1], sample.kind, key=_rank)
            column = (at, worst, max(column[2], sample.unacked))
            continue
        if column:
            yield column
        column = (at, sample.kind, sample.unacked)
    if column:
        yield column


def _rank(kind: str) -> int:
    return _WORST_FIRST.index(kind) if kind in _WORST_FIRST else len(_WORST_FIRST)


def _runs(pieces: Iterable[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    runs: list[tuple[float, float, str]] = []
    for left, right, kind in pieces:
        if runs and runs[-1][2] == kind:
            runs[-1] = (runs[-1][0], right, kind)
        else:
            runs.append((left, right, kind))
    return runs


def _unacked(columns: list[tuple[float, str, int]], ends: list[float], row: float) -> Iterator[Markup]:
    most = max(unacked for _, _, unacked in columns)
    if not most:
        return
    heights = [
        (left, right, unacked / most * (_UNACKED_ROW - 3))
        for (left, _, unacked), right in zip(columns, ends, strict=True)
    ]
    steps = "".join(f"M{left:g},{row:g}v{-height:.1f}H{right:g}V{row:g}Z" for left, right, height in heights if height)
    yield Markup('<path class="unacked" d="{}"><title>unacknowledged segments, at most {}</title></path>').format(
        steps, most
    )
    peak = next(left for left, _, unacked in columns if unacked == most)
    at, side = (peak + 3, "start") if peak < _RIGHT - 90 else (peak - 3, "")
    yield Markup('<text class="note unacked-label {}" x="{}" y="{}">{} unacked</text>').format(side, at, row - 2, most)


def axis_ticks(start: float, end: float) -> list[float]:
    """Round times, at most about twelve."""
    span = max(end - start, 0.001)
    rough = span / 12
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = int(start / step) + (start % step > 0)
    count = int((end - first * step) / step + 1e-9) + 1
    return [round((first + number) * step, 6) for number in range(max(count, 0))]
