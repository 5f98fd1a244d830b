"""Pictures of pipelines and comparisons: all of them draw, nothing overlaps, and they say what the outcome holds."""

import subprocess
import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fw_sdk.pictures import pipeline, style
from fw_sdk.pictures.comparison import Side, differences, draw_comparison
from fw_sdk.types import BaselineResult, Comparison, Interval, PipelineResult, RowScore, ScoreSummary


def summary(mean, n=100):
    return ScoreSummary(n=n, mean=mean, ci=Interval(low=max(0, mean - 0.09), high=min(1, mean + 0.09)), binary=True)


def comparison(**changes):
    fields = {
        "name": "accounts/local/comparisons/c",
        "baseline": "accounts/local/evaluationJobs/p-few-shot",
        "candidate": "accounts/local/evaluationJobs/p-tuned",
        "baseline_mean": 0.14,
        "candidate_mean": 0.55,
        "delta": 0.41,
        "ci": Interval(low=0.3, high=0.52),
        "n": 100,
        "wins": 45,
        "losses": 4,
        "ties": 51,
        "p_value": 8.2e-10,
        "verdict": "better",
    }
    return Comparison(**{**fields, **changes})


def outcome(**changes):
    fields = {
        "model": "accounts/local/models/smollm2-135m",
        "adapter": "accounts/local/models/function-calling",
        "loss": [(step, 2.5 / step) for step in range(1, 41)],
        "timings": {"finetune": 251.3},
        "baselines": [
            BaselineResult(label="base", evaluation="p-baseline", summary=summary(0.0)),
            BaselineResult(label="few_shot", evaluation="p-few-shot", summary=summary(0.14)),
        ],
        "tuned": summary(0.55),
        "comparison": comparison(),
    }
    return PipelineResult(**{**fields, **changes})


LONG = [BaselineResult(label="a_very_long_label_of_a_baseline", evaluation="x", summary=summary(1.0))]
UNDECIDED = comparison(verdict="inconclusive", delta=-0.02, ci=Interval(low=-0.11, high=0.07), rows_needed=6_543_210)
INVALID = comparison(verdict="invalid", p_value=None, baseline_failed_rows=38, candidate_failed_rows=100)
OUTCOMES = {
    "invalid": outcome(comparison=INVALID),
    "usual": outcome(),
    "inconclusive": outcome(comparison=UNDECIDED, loss=[(1, 2.0), (2, float("nan")), (3, 1.5)]),
    "crowded": outcome(baselines=[*outcome().baselines, *LONG * 5], adapter="x" * 60),
    "below zero": outcome(tuned=ScoreSummary(n=9, mean=-3.5, ci=Interval(low=-5, high=-1))),
    "empty": PipelineResult(model="m"),
}


def side(name, scores, mean=None):
    rows = [RowScore(index=index, line=index + 1, score=score) for index, score in enumerate(scores)]
    return Side(name, rows, summary(mean, len(rows)) if mean is not None else None)


ZEROS = [0.0] * 40
PAIRS = {
    "usual": (comparison(), side("base", ZEROS, 0.14), side("tuned", [1.0] * 25 + ZEROS[25:], 0.55)),
    "undecided": (UNDECIDED, side("a", [1.0, 0.0] * 20, 0.5), side("b", [0.0, 1.0] * 20, 0.5)),
    "all the same": (UNDECIDED, side("a", ZEROS, 0.0), side("b", ZEROS, 0.0)),
    "graded": (comparison(), side("a", [0.3, -2.5, 7.0], 1.6), side("b" * 60, [0.2, 1.0, 7.5], 2.9)),
    "unscored": (comparison(), side("a", [None, 0.5] * 900, 0.2), side("b", [1.0, None] * 900, 0.5)),
    "nothing": (UNDECIDED, side("a", []), side("b", [])),
}
DRAWN = {
    **{name: lambda path, found=found: pipeline.draw_pipeline(found, path) for name, found in OUTCOMES.items()},
    **{f"pair {name}": lambda path, pair=pair: draw_comparison(*pair, path) for name, pair in PAIRS.items()},
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_outcome_draws_at_its_size(tmp_path, name):
    path = tmp_path / "new" / "picture.png"
    DRAWN[name](path)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == (1200, 500)


def drawn(figure):
    """Every text that is drawn; ticks beyond the ends of an axis exist but are not."""
    yield from figure.texts
    for axes in figure.axes:
        yield from axes.texts
        yield from (axes.xaxis.label, axes.yaxis.label, axes._left_title)
        for labels, places, (low, high) in (
            (axes.get_xticklabels(), axes.get_xticks(), axes.get_xlim()),
            (axes.get_yticklabels(), axes.get_yticks(), axes.get_ylim()),
        ):
            yield from (label for label, place in zip(labels, places, strict=True) if low <= place <= high)


@pytest.mark.parametrize("name", DRAWN)
def test_no_text_leaves_the_picture_or_lies_on_another(tmp_path, monkeypatch, name):
    boxes = []

    def measure(figure, path, **_):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        boxes.extend((text.get_text(), text.get_window_extent(renderer)) for text in drawn(figure) if text.get_text())

    monkeypatch.setattr(Figure, "savefig", measure)
    DRAWN[name](tmp_path / "picture.png")
    assert boxes
    for index, (text, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1200 and box.y1 <= 500, text
        for other, second in boxes[:index]:
            assert not box.overlaps(second), (text, other)


def test_rows_are_paired_by_their_line_and_a_row_without_a_score_counts_against_the_candidate():
    before = [RowScore(index=0, line=3, score=0.5), RowScore(index=1, line=7, score=None), RowScore(index=2, line=9)]
    after = [RowScore(index=0, line=7, score=1.0), RowScore(index=1, line=3, score=0.25), RowScore(index=2, line=11)]
    assert differences(comparison(score_range=(-2.0, 3.0)), before, after) == [-0.25, -2.0]
    assert differences(comparison(score_range=(-2.0, 3.0)), after, before) == [0.25, -3.0]
    assert differences(comparison(), before, after) == [-0.25], "of an older comparison no range is known"


def test_bars_have_the_ink_of_their_sign(monkeypatch):
    bars = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: bars.extend(figure.axes[0].patches))
    draw_comparison(*PAIRS["graded"], None)
    assert [bar.get_height() for bar in bars] == pytest.approx([3.5, 0.5, -0.1])
    inks = [to_hex(bar.get_facecolor()) for bar in bars]
    assert inks == [style.VERDICT_INK["better"]] * 2 + [style.VERDICT_INK["worse"]]


def test_the_caption_states_difference_interval_and_grounds():
    against = pipeline.best_baseline(outcome())
    line = style.difference_line(comparison(), "tuned", against)
    assert line.split("     ") == ["tuned − few-shot = +0.41", "95 % interval +0.30 to +0.52", "n = 100"]
    assert style.grounds_line(UNDECIDED).endswith("about 6,543,210 rows in all would decide")
    assert "rows without a score: baseline 38, candidate 100" in style.grounds_line(INVALID)


def test_smoothing_keeps_a_constant_and_starts_at_the_first_value():
    assert pipeline.smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    means = pipeline.smoothed([4.0, 0.0, 0.0])
    assert means[0] == 4.0 and means[0] > means[1] > means[2] > 0


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, fw_sdk.pictures.pipeline, fw_sdk.pictures.comparison; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
