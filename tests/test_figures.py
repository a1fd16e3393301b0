"""Every figure, drawn from the released cells: all points shown, nothing overlaps, axes labelled."""

import matplotlib as mpl
import numpy as np
import pytest

from kdutils import claims, figures, plots, published, stats, study


@pytest.fixture(scope="module")
def cells(released_tables):
    return published.cells()


@pytest.fixture(scope="module")
def gains(cells):
    return study.gains(cells, selection="best_on_test")


@pytest.fixture(scope="module")
def points(gains):
    return study.averages(gains)


@pytest.fixture(autouse=True)
def theme():
    """The study's look, and afterwards the one there was: settings of matplotlib are global."""
    mpl.use("Agg")
    with mpl.rc_context():
        plots.set_theme()
        yield
        mpl.pyplot.close("all")


@pytest.fixture(scope="module")
def drawings(cells, gains, points):
    """Name -> function that makes the finished figure, as the notebooks do."""
    by_task = study.in_task_order(
        stats.gain_intervals(
            gains, by=["domain", "family", "student", "student_parameters", "task", "method"]
        )
    )
    means = points.groupby(["domain", "family", "student_parameters", "method"])["gain"].mean().reset_index()
    size = stats.correlation_intervals(stats.ledger(cells, section="02"), "spearman_gain_size")
    size["printed"] = [claims.printed_size_correlation(row.domain, row.task) for row in size.itertuples()]
    tuning = study.averages(study.teacher_tuning(cells))
    agreement = study.likeness_by_pair(gains, measure="agreement")
    kinds = [plots.KIND_STYLE[kind] for kind in ("sft", "kd", "untuned", "tuned")]
    swept = study.temperature_runs(cells)
    return {
        "coverage": lambda: figures.coverage(study.coverage(cells)),
        "gain_by_pair": lambda: figures.gain_by_pair(
            stats.gain_intervals(points, by=["domain", "pair", "student", "task", "method"])
        ),
        "gain_by_task": lambda: figures.gain_by_task(by_task[by_task["domain"] == "commonsense"]),
        "gain_by_size": lambda: figures.gain_by_size(points, means),
        "correlations": lambda: figures.correlations(size),
        "gain_against": lambda: figures.gain_against(points, x="sft_accuracy", xlabel="SFT accuracy, %"),
        "untuned": lambda: figures.before_and_after(
            tuning, left="untuned", right="tuned", styles=tuple(kinds[2:]), xlabel="accuracy, %"
        ),
        "agreement": lambda: figures.before_and_after(
            agreement, left="sft", right="kd", styles=tuple(kinds[:2]), xlabel="agreement, %"
        ),
        "level": lambda: figures.likeness_against_accuracy(gains, y="agreement", ylabel="agreement, %"),
        "level_and_gain": lambda: figures.level_and_gain(
            gains.dropna(subset=["fidelity"]), measure="fidelity", label="fidelity, %"
        ),
        "temperature": lambda: figures.temperature_curves(stats.accuracy_intervals(study.averages(swept))),
        "best": lambda: figures.best_temperature(study.best_temperature_shares(swept)),
        "noise": lambda: figures.known_noise(published.noise_results(), sft=52.84, base=20.09),
        "verdicts": lambda: figures.verdict_bars(claims.verdict_counts(claims.judge(cells, section="02"))),
    }


NAMES = [
    *("coverage", "gain_by_pair", "gain_by_task", "gain_by_size", "correlations", "gain_against", "untuned"),
    *("agreement", "level", "level_and_gain", "temperature", "best", "noise", "verdicts"),
]


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_legends_do_not_overlap(name, drawings):
    fig = drawings[name]()
    assert any(ax.get_xlabel() for ax in fig.axes) or name == "coverage"
    fig.canvas.draw()
    page = fig.bbox
    boxes = {f"legend {i}": legend.get_window_extent() for i, legend in enumerate(fig.legends)}
    for i, ax in enumerate(fig.axes):
        if not ax.get_visible():
            continue
        for axis, kind in ((ax.xaxis, "x"), (ax.yaxis, "y")):
            if axis.label.get_text():
                boxes[f"axes {i} {kind} label"] = axis.label.get_window_extent()
        boxes[f"axes {i} title"] = ax.title.get_window_extent()
        boxes[f"axes {i}"] = ax.get_window_extent()
    for first, box in boxes.items():
        assert box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1, f"{name}: {first} leaves the page"
        for second, other in boxes.items():
            if first < second:
                apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
                assert apart or box.width * box.height == 0, f"{name}: {first} overlaps {second}"


def test_every_point_is_drawn_where_it_belongs(drawings, points):
    fig = drawings["gain_against"]()
    for ax, domain in zip(fig.axes, ("math", "commonsense"), strict=True):
        drawn = np.concatenate([np.asarray(collection.get_offsets()) for collection in ax.collections])
        expected = points.loc[points["domain"] == domain, ["sft_accuracy", "gain"]].to_numpy(float)
        assert np.allclose(drawn[np.lexsort(drawn.T)], expected[np.lexsort(expected.T)])


def test_intervals_are_those_of_the_table(points):
    table = stats.gain_intervals(points, by=["domain", "pair", "student", "task", "method"])
    one = table[(table["domain"] == "math") & (table["method"] == "gkd")]
    _, (ax,) = plots.panels(height=3)
    plots.interval_dots(ax, one, y="pair", x="gain", styles=plots.METHOD_STYLE, by="method")
    segments = ax.containers[0].lines[2][0].get_segments()
    assert [segment[0][0] for segment in segments] == pytest.approx(one["low"].tolist())
    assert [segment[1][0] for segment in segments] == pytest.approx(one["high"].tolist())


def test_methods_differ_in_marker_as_well_as_colour():
    for styles in (plots.METHOD_STYLE, plots.KIND_STYLE, plots.SELECTION_STYLE, plots.VERDICT_STYLE):
        looks = [(style.colour, style.marker) for style in styles.values()]
        assert len(set(looks)) == len(looks)
    assert len({style.marker for style in plots.METHOD_STYLE.values()}) == len(plots.METHOD_STYLE)


@pytest.mark.parametrize(
    ("colour", "text"), [((1, 1, 1), "black"), ((0, 0, 0), "white"), ((0, 0.62, 0.45), "black")]
)
def test_text_on_a_bar_contrasts(colour, text):
    assert plots._text_colour(colour) == text


def test_one_domain_alone_gives_one_panel(cells):
    shown = study.restrict(cells, domains=["math"], methods=["gkd"])
    fig = figures.gain_against(
        study.averages(study.gains(shown, selection="temperature_1")), x="teacher_accuracy", xlabel="x"
    )
    assert len(fig.axes) == 1
