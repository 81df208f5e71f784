"""Claims: supported, contradicted or undecided, by results made to be so."""

from __future__ import annotations

import pytest
from made_runs import make_run

from prognobench.analysis.statistics.claims import check_claims, read_claims, study_claims
from prognobench.errors import ConfigError

CLAIMS = """
groups:
  cnn: {model: ["cnn*"]}
  vit: {model: ["vit*"]}
  lora: {strategy: [lora]}
  full: {strategy: [full]}
claims:
  - {name: cnn_wins, says: CNNs win, kind: better, metric: roc_auc, first: [cnn], second: [vit],
     where: {regime: [full]}}
  - {name: vit_wins, says: ViTs win, kind: better, metric: brier, first: [vit], second: [cnn],
     where: {regime: [full]}}
  - {name: small, says: on tiny sets, kind: better, first: [cnn], second: [vit],
     where: {patients: [0, 10]}}
  - {name: competes, says: LoRA competes, kind: not_worse, metric: roc_auc, first: [lora],
     second: [full], margin: 0.9, where: {regime: [full]}}
  - {name: steady, says: LoRA is steady, kind: steadier, metric: roc_auc, first: [lora],
     second: [full], where: {regime: [few_shot]}}
  - {name: winners, says: no winner, kind: no_single_winner, metric: roc_auc,
     where: {regime: [full]}}
  - {name: balance, says: balance helps LoRA, kind: better_balanced, metric: roc_auc,
     first: [lora], second: [full], where: {regime: [full]}, balanced: [0.3, 0.5],
     imbalanced: [0, 0.29]}
"""


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    # LoRA is as good as full fine-tuning where classes are balanced, and lost elsewhere.
    for dataset, prevalence, lora in (("even", 0.45, 0.95), ("rare", 0.1, 0.05)):
        for model, skill in (("cnn", 0.95), ("vit", 0.3)):
            size = {"prevalence": prevalence, "patients": 300}
            make_run(folder, dataset, model, "full", skill=skill, **size)
            make_run(folder, dataset, model, "lora", skill=skill * lora + 0.01, **size)
    make_run(folder, "even", "cnn", "lora", skill=1.0, k=2, draws=8)
    make_run(folder, "even", "cnn", "full", skill=0.2, k=2, draws=8)
    file = folder / "claims.yaml"
    file.write_text(CLAIMS)
    return {finding.claim.name: finding for finding in check_claims(folder, file)}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("cnn_wins", "supported"),
        ("vit_wins", "contradicted"),
        ("small", "undecided"),
        ("competes", "supported"),
        ("steady", "supported"),
        ("balance", "supported"),
    ],
)
def test_verdicts(findings, name, verdict):
    assert findings[name].verdict == verdict, findings[name]


def test_evidence_has_numbers_and_counts(findings):
    evidence = {each.context: each for each in findings["cnn_wins"].evidence}
    assert set(evidence) == {"even (full, five_fold)", "rare (full, five_fold)"}
    first = evidence["even (full, five_fold)"]
    assert first.low < first.value < first.high
    assert (first.folds, first.runs) == (5, 4)
    assert "for, 0 against" in findings["cnn_wins"].reason


def test_one_winner_on_few_datasets_is_undecided(findings):
    found = findings["winners"]
    assert found.verdict in ("supported", "undecided")
    assert len(found.evidence) == 2


def winners(tmp_path, skills):
    """The verdict on "no strategy wins everywhere" where datasets have these skills of two."""
    for number, (full, lora) in enumerate(skills):
        for strategy, skill in (("full", full), ("lora", lora)):
            make_run(tmp_path, f"d{number}", "cnn", strategy, skill=skill, patients=300)
    return next(one for one in check_claims(tmp_path) if one.claim.name == "no_single_winner")


def test_no_strategy_wins_everywhere_where_each_clearly_beats_the_other(tmp_path):
    found = winners(tmp_path, [(0.95, 0.1), (0.1, 0.95)])
    assert found.verdict == "supported"
    assert "full is clearly better than lora on one dataset" in found.reason


def test_winners_by_chance_decide_nothing(tmp_path):
    assert winners(tmp_path, [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)]).verdict == "undecided"


def test_one_that_wins_everywhere_contradicts(tmp_path):
    assert winners(tmp_path, [(0.95, 0.1)] * 3).verdict == "contradicted"


def test_the_studys_findings_are_all_checked(tmp_path):
    make_run(tmp_path)
    found = check_claims(tmp_path)
    assert len(found) >= 5
    assert {finding.verdict for finding in found} == {"undecided"}
    assert all(finding.reason for finding in found)


def test_the_studys_file_is_sound():
    described = read_claims(study_claims())
    assert {"cnn", "foundation", "peft"} <= set(described.groups)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("kind: better,", "kind: bettr,"), "kind"),
        (("first: [cnn]", "first: [cnns]"), "unknown group 'cnns'"),
        (("metric: brier", "metric: brierr"), "Did you mean 'brier'"),
        (("says: CNNs win", "sayz: CNNs win"), "sayz"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, change, said):
    file = tmp_path / "claims.yaml"
    file.write_text(CLAIMS.replace(*change))
    with pytest.raises(ConfigError, match=said):
        read_claims(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_claims(tmp_path / "no.yaml")
