"""Differences between groups of patients, and centres pooled with random effects."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run
from test_appendix import closeup

from prognobench.analysis.report.closeup_figures import draw_closeup
from prognobench.analysis.report.groups import (
    compare_groups,
    find_groups,
    pool_by_centre,
    sum_groups,
)
from prognobench.analysis.statistics.random_effects import find_variance, pool_centres


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
def test_pooling_is_that_of_statsmodels(spread):
    from scipy.stats import t
    from statsmodels.stats.meta_analysis import combine_effects

    random = np.random.default_rng(3)
    errors = random.uniform(0.05, 0.2, 7)
    values = 0.4 + spread * random.normal(size=7) + errors * random.normal(size=7)
    found = pool_centres(values, errors)
    theirs = combine_effects(values, errors**2, method_re="iterated", use_t=False, atol=1e-12)
    frame = theirs.summary_frame().loc["random effect wls"]
    reach = t.ppf(0.975, 6) * frame["sd_eff"]
    assert found.tau**2 == pytest.approx(max(theirs.tau2, 0.0), abs=1e-6)
    assert found.mean == pytest.approx(frame["eff"], abs=1e-6)
    ends = [frame["eff"] - reach, frame["eff"] + reach]
    assert [found.low, found.high] == pytest.approx(ends, abs=1e-5)
    assert found.heterogeneity == pytest.approx(max(theirs.i2, 0.0), abs=1e-9)
    assert found.predicted_low < found.low + 1e-9 or found.tau == 0


def test_equal_centres_have_no_variance_and_two_are_not_pooled():
    same = np.full(4, 0.3)
    assert find_variance(same, np.full(4, 0.1)) == 0
    assert pool_centres(same, np.full(4, 0.1)).mean == pytest.approx(0.3)
    assert pool_centres(same[:2], np.full(2, 0.1)) is None


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    make_run(folder, patients=120, meta={"cv": "leave_one_centre_out"})
    make_run(folder, strategy="metadata", skill=0.2, meta={"cv": "leave_one_centre_out"})
    return closeup(folder)


def test_a_difference_is_group_minus_all_others(one):
    groups = find_groups(one)
    table = compare_groups(one, groups)
    assert len(table.rows) == len(groups) > 1
    for _, row in table.rows:
        score, others, difference = (entry.value for entry in row[2:])
        assert difference == pytest.approx(score - others)
    # Of two groups, one's difference is the other's with its sign changed.
    for column in {name.partition("=")[0] for name in groups}:
        values = [row[4].value for names, row in table.rows if names[0].startswith(f"{column}=")]
        if len(values) == 2:
            assert values[0] == pytest.approx(-values[1])
        assert set(np.unique(sum_groups(groups, column))) <= {0.0, 1.0}


def test_centres_are_pooled_where_they_are_left_out(one, tmp_path):
    table = pool_by_centre(one)
    centres = one.scored.folders[one.series[0].rows[0]].cohort()["centre"].nunique()
    assert len(table.competing) == centres
    assert [names[0] for names, _ in table.below] == ["mean over centres", "another centre"] * (
        centres > 2
    )
    make_run(tmp_path)
    assert pool_by_centre(closeup(tmp_path)) is None


def test_intervals_are_held_against_chance_and_baselines(one):
    figures = {figure.name.split("-")[0]: figure for figure in draw_closeup(one, find_groups(one))}
    data = figures["interval"].data
    lines = data[data["kind"] == "reference"].set_index("label")["value"]
    assert lines["chance"] == pytest.approx(0, abs=0.05)
    assert "metadata (no image)" in lines.index
    assert "metadata (no image) " in figures["interval"].alt
    assert "<svg" in figures["interval"].inline()
