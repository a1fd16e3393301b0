"""Every figure, drawn from the released cells: all points shown, nothing overlaps, axes labelled."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from kdutils.claims import answer_sheet, claims
from kdutils.constants import DOMAIN_TASKS, DOMAINS, METHOD_LABELS, METHODS, TASK_LABELS
from kdutils.inference import intervals
from kdutils.report import figures, plots, teacher_figures
from kdutils.report.plots import (
    ANSWER_STYLE,
    ERROR_STYLE,
    KIND_STYLE,
    METHOD_STYLE,
    SELECTION_STYLE,
    VERDICT_STYLE,
    WAY_STYLE,
    ordered_styles,
    set_theme,
    text_colour,
)
from kdutils.results import (
    agreement_fidelity,
    answer_modes,
    authors_tables,
    authors_tests,
    capa,
    gain_tables,
    paradox,
    sweeps,
)

LEVEL = {
    "x": "accuracy",
    "xlabel": "accuracy, %",
    "y": "agreement",
    "ylabel": "agreement, %",
    "has_equal": True,
}


@pytest.fixture(scope="module")
def points(gains):
    return gain_tables.averages(gains)


@pytest.fixture(autouse=True)
def theme():
    """The study's look, and afterwards the one there was: settings of matplotlib are global."""
    mpl.use("Agg")
    with mpl.rc_context():
        set_theme()
        yield
        mpl.pyplot.close("all")


@pytest.fixture(scope="module")
def drawings(cells, gains, points):
    """Name -> function that makes the finished figure, as the notebooks do."""
    by_task = gain_tables.in_task_order(
        intervals.gain_intervals(
            gains, by=["domain", "family", "student", "student_parameters", "task", "method"]
        )
    )
    size = authors_tests.correlation_intervals(
        authors_tests.ledger(cells, section="02"), "spearman_gain_size"
    )
    size = claims.with_printed(size)
    tuning = gain_tables.averages(gain_tables.teacher_tuning(cells))
    agreement = agreement_fidelity.by_pair(gains, measure="agreement")
    swept = sweeps.temperature_runs(cells)
    return {
        "coverage": lambda: figures.coverage(gain_tables.coverage(cells)),
        "gain_by_pair": lambda: figures.gain_by_pair(
            intervals.gain_intervals(points, by=["domain", "pair", "student", "task", "method"])
        ),
        "gain_map": lambda: figures.gain_map(gain_map(points)),
        "gain_by_task": lambda: figures.gain_by_task(by_task[by_task["domain"] == "commonsense"]),
        "gain_by_size": lambda: figures.gain_by_size(points),
        "correlations": lambda: figures.correlations(size),
        "gain_against": lambda: figures.against(points, x="sft_accuracy", xlabel="SFT accuracy, %"),
        "untuned": lambda: teacher_figures.before_and_after(
            tuning, left="untuned", right="tuned", xlabel="accuracy, %"
        ),
        "agreement": lambda: teacher_figures.before_and_after(
            agreement, left="sft", right="kd", xlabel="agreement, %"
        ),
        "level": lambda: figures.against(gains, **LEVEL, by="domain"),
        "level_and_gain": lambda: teacher_figures.level_and_gain(gains.dropna(subset=["fidelity"])),
        "temperature": lambda: teacher_figures.sweep_curves(
            intervals.accuracy_intervals(gain_tables.averages(swept)), x="temperature"
        ),
        "best": lambda: figures.shares(sweeps.best_temperature_shares(swept), of="temperatures"),
        "noise": lambda: teacher_figures.known_noise(authors_tables.noise_results(), sft=52.84, base=20.09),
        "verdicts": lambda: figures.shares(
            answer_sheet.verdict_counts(claims.ledger_rows(claims.judgements(cells, section="02"))),
            of="verdicts",
        ),
    }


NAMES = [
    *(
        "coverage",
        "gain_map",
        "gain_by_pair",
        "gain_by_task",
        "gain_by_size",
        "correlations",
        "gain_against",
        "untuned",
    ),
    *("agreement", "level", "level_and_gain", "temperature", "best", "noise", "verdicts"),
]


def gain_map(points):
    """Gains of one run each, of which those of more than 10 points have a star."""
    labels = points["method"].map(METHOD_LABELS).str.split(" ").str[0]
    return points.assign(label=labels, is_marked=points["gain"].abs() > 10)


def test_a_map_shows_every_gain_in_its_place(points):
    table = gain_map(points).iloc[::-1]
    fig = figures.gain_map(table)
    for ax, domain in zip(fig.axes, ("commonsense", "math"), strict=True):
        part = table[table["domain"] == domain].set_index(["pair", "label"])
        columns = [label.get_text() for label in ax.get_xticklabels()]
        rows = [label.get_text() for label in ax.get_yticklabels()] or list(dict.fromkeys(table["pair"]))
        assert columns == ["SeqKD†", "RevKD", "GKD"]
        assert len(ax.texts) == len(part)
        for text in ax.texts:
            column, row = text.get_position()
            cell = part.loc[(rows[row], columns[column])]
            star = "*" * bool(abs(cell["gain"]) > 10)
            assert text.get_text() == f"{cell['gain']:+.1f}{star}".replace("-", "−")


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
    table = intervals.gain_intervals(points, by=["domain", "pair", "student", "task", "method"])
    one = table[(table["domain"] == "math") & (table["method"] == "gkd")]
    _, (ax,) = plots.panels(height=3)
    plots.interval_dots(ax, one, y="pair", x="gain", styles=METHOD_STYLE, by="method")
    segments = ax.containers[0].lines[2][0].get_segments()
    assert [segment[0][0] for segment in segments] == pytest.approx(one["low"].tolist())
    assert [segment[1][0] for segment in segments] == pytest.approx(one["high"].tolist())


def test_methods_differ_in_marker_as_well_as_colour():
    assert set(METHOD_STYLE) == set(METHODS) - {"base", "kd"}
    for styles in (METHOD_STYLE, KIND_STYLE, SELECTION_STYLE, VERDICT_STYLE):
        looks = [(style.colour, style.marker) for style in styles.values()]
        assert len(set(looks)) == len(looks)
    assert len({style.marker for style in METHOD_STYLE.values()}) == len(METHOD_STYLE)


@pytest.mark.parametrize(
    ("colour", "text"), [((1, 1, 1), "black"), ((0, 0, 0), "white"), ((0, 0.62, 0.45), "black")]
)
def test_text_on_a_bar_contrasts(colour, text):
    assert text_colour(colour) == text


def test_one_domain_alone_gives_one_panel(cells):
    shown = cells[(cells["domain"] == "math") & cells["method"].isin(["sft", "gkd"])]
    fig = figures.against(
        gain_tables.averages(gain_tables.gains(shown, selection="temperature_1")),
        x="teacher_accuracy",
        xlabel="x",
    )
    assert len(fig.axes) == 1


def swept(n_pairs, varied, values, domains=("math", "commonsense")):
    """Averages of made-up mini pairs over a swept quantity, as study and stats give them."""
    rows = [
        {"domain": domain, "pair": f"mini-qwen {518 - pair}k→{109 - pair}k", "method": method, varied: value}
        | {"accuracy": 50.0 - 3 * value + pair, "low": 40.0 - 3 * value, "high": 75.0 - 3 * value}
        | {"sft_accuracy": 45.0, "base_accuracy": 20.0}
        for domain in domains
        for pair in range(n_pairs)
        for method in ("fkl", "revkd")
        for value in values
    ]
    return pd.DataFrame(rows)


def likenesses(n_pairs):
    table = swept(n_pairs, "temperature", (1.0,)).assign(fidelity=lambda t: t["accuracy"])
    return pd.concat([table, table.assign(method="sft", fidelity=60.0)])


def by_task(varied, values):
    tasks = {domain: [TASK_LABELS[task] for task in DOMAIN_TASKS[domain]] for domain in DOMAINS}
    rows = [
        {"domain": domain, "label": label, varied: value, "gain": place - 5.0}
        for domain in DOMAINS
        for label in (*tasks[domain], "Average")
        for place, value in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(low=lambda t: t["gain"] - 9, high=lambda t: t["gain"] + 7)


def ways():
    rows = [
        {
            "domain": domain,
            "method": method,
            "way": way,
            "accuracy": 20.0 * place + 5,
            "low": 1.0,
            "high": 70.0,
        }
        for domain in DOMAINS
        for method in ("base", "sft", "fkl", "seqkd", "revkd", "gkd")
        for place, way in enumerate(WAY_STYLE)
    ]
    return pd.DataFrame(rows)


def links():
    rng = np.random.default_rng(0)
    methods = rng.choice(["fkl", "seqkd", "revkd", "gkd"], 120)
    labels = np.repeat(["AQuA", "AddSub", "GSM8K", "MultiArith", "SVAMP", "SingleEq"], 20)
    return pd.DataFrame({"label": labels, "method": methods, "fidelity_correct_r": rng.uniform(-1, 1, 120)})


def adjusted():
    rows = [
        {"domain": domain, "method": method, "label": method, "measure": measure}
        | {"estimate": 0.3, "low": 0.1, "high": 0.5}
        for domain in DOMAINS
        for method in ("sft", "fkl", "seqkd", "revkd", "gkd")
        for measure in capa.MEASURES
    ]
    return pd.DataFrame(rows)


def grouped(groups, methods):
    rows = [
        {"method": method, "label": METHOD_LABELS[method].split(" ")[0], "group": group, "group_label": label}
        | {"measure": measure, "estimate": 50.0, "low": -60.0, "high": 90.0, "n": 12_345}
        for method in methods
        for group, label in groups.items()
        for measure in paradox.MEASURES
    ]
    return pd.DataFrame(rows)


T = {"x": "temperature"}
LIVE = {
    "temperature, 4 pairs": lambda: teacher_figures.sweep_curves(
        swept(4, "temperature", (1.0, 2.0, 5.0)), x="temperature"
    ),
    "temperature, 7 pairs": lambda: teacher_figures.sweep_curves(
        swept(7, "temperature", (1.0, 2.0, 5.0)), x="temperature"
    ),
    "temperature, 21 pairs": lambda: teacher_figures.sweep_curves(
        swept(21, "temperature", (1.0, 5.0)), x="temperature"
    ),
    "noise": lambda: teacher_figures.sweep_curves(swept(3, "noise_sigma", (0.0, 2.0, 5.0)), x="noise_sigma"),
    "level": lambda: teacher_figures.level_and_gain(likenesses(9).assign(gain=1.0, source="live")),
    "links": lambda: teacher_figures.right_and_alike(links(), bound=0.3),
    "one pair by task": lambda: figures.by_task(
        by_task("method", ("sft", "fkl", "revkd", "gkd")), x="gain", xlabel="gain over SFT, points"
    ),
    "one pair by task, one domain": lambda: figures.by_task(
        by_task("noise_sigma", (2.0, 5.0)).query("domain == 'math'"),
        x="gain",
        xlabel="accuracy less that without noise, points",
        by="noise_sigma",
        styles=ordered_styles((2.0, 5.0), "σ"),
    ),
    "given accuracy": lambda: teacher_figures.given_accuracy(adjusted()),
    "likeness by outcome": lambda: teacher_figures.likeness_by_group(
        grouped(paradox.OUTCOMES, ("sft", "fkl", "seqkd", "revkd", "gkd")),
        xlabel="likeness to the teacher, %",
    ),
    "likeness by fate": lambda: teacher_figures.likeness_by_group(
        grouped(paradox.FATES, ("fkl", "gkd")), xlabel="change of likeness through KD, points"
    ),
    "errors": lambda: figures.shares(
        pd.DataFrame(100 / 9, index=["SFT", "SeqKD (4 pairs)", "GKD"], columns=list(ERROR_STYLE)), of="errors"
    ),
    "two ways": lambda: figures.two_ways(ways()),
    "temperature, 1 pair": lambda: teacher_figures.sweep_curves(
        swept(1, "temperature", (1.0, 2.0, 5.0)), x="temperature"
    ),
}


@pytest.mark.parametrize("name", LIVE)
def test_live_figures_of_many_pairs_do_not_overlap(name):
    test_labels_and_legends_do_not_overlap(name, LIVE)


def test_a_figure_by_task_draws_each_value_in_its_row():
    table = by_task("method", ("sft", "gkd"))
    fig = figures.by_task(table, x="gain", xlabel="gain, points")
    for ax, domain in zip(fig.axes, DOMAINS, strict=True):
        part = table[table["domain"] == domain]
        assert [text.get_text() for text in ax.get_yticklabels()] == part["label"].unique().tolist()
        drawn = np.concatenate([container.lines[0].get_xdata() for container in ax.containers])
        assert sorted(drawn) == sorted(part["gain"])
        assert "95% interval" in ax.get_xlabel()


def test_every_way_of_answering_has_its_own_look():
    assert list(WAY_STYLE) == list(answer_modes.WAYS.values())
    assert len({style.marker for style in WAY_STYLE.values()}) == 3
    fig = figures.two_ways(ways())
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()][:3] == ["Base model", "SFT", "SeqKD†"]


def test_ordered_values_go_from_light_to_dark_and_differ_in_marker():
    styles = ordered_styles((5.0, 1.0, 2.0), "T")
    assert [style.label for style in styles.values()] == ["T = 1", "T = 2", "T = 5"]
    assert len({style.marker for style in styles.values()}) == 3
    lightness = [sum(style.colour) for style in styles.values()]
    assert lightness == sorted(lightness, reverse=True)


@pytest.mark.parametrize("n_pairs", [4, 7])
def test_every_pair_has_its_panel_and_panels_of_a_domain_share_their_axis(n_pairs):
    table = swept(n_pairs, "temperature", (1.0, 2.0, 5.0))
    table.loc[table["domain"] == "commonsense", ["accuracy", "low", "high"]] += 20
    panels = [ax for ax in teacher_figures.sweep_curves(table, x="temperature").axes if ax.get_visible()]
    places = table.drop_duplicates(["domain", "pair"])
    assert [ax.get_title() for ax in panels] == (places["domain"] + "\n" + places["pair"]).tolist()
    for domain, limits in (("math", panels[0]), ("commonsense", panels[-1])):
        of_domain = [ax for ax in panels if ax.get_title().startswith(domain)]
        assert {ax.get_ylim() for ax in of_domain} == {limits.get_ylim()}
    assert panels[0].get_ylim() != panels[-1].get_ylim()


def test_a_pair_that_one_domain_lacks_leaves_its_place_empty():
    table = swept(3, "noise_sigma", (0.0, 5.0))
    lost = (table["domain"] == "math") & (table["pair"] == table["pair"].iloc[-1])
    fig = teacher_figures.sweep_curves(table[~lost], x="noise_sigma")
    assert [ax.get_visible() for ax in fig.axes] == [True, True, False, True, True, True]


def test_noise_curves_draw_the_table_between_its_reference_lines():
    table = swept(1, "noise_sigma", (5.0, 0.0), domains=("math",)).query("method == 'fkl'")
    (ax,) = teacher_figures.sweep_curves(table, x="noise_sigma").axes
    line = ax.containers[0].lines[0]
    assert line.get_xydata().tolist() == [[0.0, 50.0], [5.0, 35.0]]
    assert [tuple(line.get_ydata()) for line in ax.lines[-2:]] == [(45.0, 45.0), (20.0, 20.0)]


def test_every_run_is_a_point_of_its_task():
    table = links()
    fig = teacher_figures.right_and_alike(table, bound=0.3)
    drawn = np.concatenate([np.asarray(points.get_offsets()) for points in fig.axes[0].collections])
    assert sorted(drawn[:, 0]) == pytest.approx(sorted(table["fidelity_correct_r"]))
    order = list(dict.fromkeys(table["label"]))
    assert sorted(drawn[:, 1].round()) == sorted(order.index(label) for label in table["label"])


def test_sizes_are_labelled_as_in_the_names_of_models():
    sizes = [14_000, 72_000, 73_000, 333_000, 135e6, 0.5e9, 14e9]
    places, labels = plots.size_ticks(sizes)
    assert labels == ["14k", "72k, 73k", "333k", "135M", "0.5B", "14B"]
    assert 72_000 < places[1] < 73_000  # two ticks there would print over each other
    assert places == sorted(places)


def live_points(domains, n_teachers=2):
    """Averages of students with sizes of the mini family."""
    families = {"mini-qwen": (5e8, 1.5e9, 3e9, 7e9), "mini-llama": (1e9, 3e9)}
    rows = [
        {"domain": domain, "family": family, "student": f"{family}-{size}", "method": method}
        | {"student_parameters": size, "gain": gain, "sft_accuracy": 30.0 + gain}
        for domain in domains
        for family, sizes in families.items()
        for size in sizes
        for method in ("fkl", "revkd", "gkd")
        for gain in range(n_teachers)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("domains", [("math", "commonsense"), ("math", "commonsense", "instruction")])
def test_size_axis_of_the_mini_family_can_be_read(domains):
    points = live_points(domains)
    fig = figures.gain_by_size(points)
    plots.watermark(fig, "model world")
    fig.canvas.draw()
    assert "model world" in [text.get_text() for text in fig.texts]
    for ax in fig.axes:
        labels = [label for label in ax.get_xticklabels() if label.get_text()]
        texts = [label.get_text() for label in labels]
        assert texts == ["0.5B", "1B", "1.5B", "3B", "7B"]
        centres = [label.get_window_extent().x0 for label in labels]
        text_height = labels[0].get_fontsize() * fig.dpi / 72
        assert min(np.diff(centres)) > 0.5 * text_height  # turned, so that what counts is their height
    labels = [ax.xaxis.label.get_window_extent() for ax in fig.axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(labels))


def test_axis_says_what_a_domain_is_scored_by():
    points = live_points(("math", "instruction"))
    fig = figures.against(points, x="sft_accuracy", xlabel="SFT {score}, %")
    assert [ax.get_xlabel() for ax in fig.axes] == ["SFT accuracy, %", "SFT ROUGE-L, %"]
    assert [ax.get_title() for ax in fig.axes] == ["Math", "Instruction following"]


def test_panels_with_other_pairs_keep_their_rows_apart():
    rows = [("math", "a", 1.0, 2.0), ("math", "b", 3.0, 4.0), ("commonsense", "b", 5.0, 6.0)]
    table = pd.DataFrame(rows, columns=["domain", "pair", "sft", "kd"])
    fig = teacher_figures.before_and_after(table, left="sft", right="kd", xlabel="x")
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["a", "b"]
    drawn = fig.axes[1].collections[-1].get_offsets()
    assert np.asarray(drawn).tolist() == [[6.0, 1.0]]  # b is the second row, in this panel as well


def test_answer_shares_fill_their_bars():
    shares = dict(zip(agreement_fidelity.ANSWERS, (40.0, 10.0, 20.0, 25.0, 5.0), strict=True))
    table = pd.DataFrame([{"domain": "math", "label": label} | shares for label in ("SFT", "GKD")])
    assert list(ANSWER_STYLE) == agreement_fidelity.ANSWERS
    fig = figures.shares(table, of="answers")
    (ax,) = fig.axes
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert max(ends) == pytest.approx(100.0)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["SFT", "GKD"]


def test_methods_have_a_legend_where_they_are_told_apart():
    values = {"accuracy": [1.0, 2.0], "agreement": [3.0, 4.0]}
    table = pd.DataFrame({"domain": "math", "method": ["fkl", "gkd"]} | values)
    assert not figures.against(table, **LEVEL, by="domain").legends
    (legend,) = figures.against(table, **LEVEL).legends
    assert [text.get_text() for text in legend.get_texts()] == ["SeqKD†", "GKD"]
