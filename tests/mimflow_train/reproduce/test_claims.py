"""Claims are the paper's: its own numbers have their order, but where its text contradicts them."""

import pytest

from mimflow_train.reproduce.design import Claim
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.outcome import Row, verdict
from mimflow_train.reproduce.paper import TABLE4

CONTRADICTED = {  # Table 5a's text on accuracy without masks
    ("table5-mask", "accuracy", "0.2-0.4", "none"),
    ("table5-mask", "accuracy", "mix", "none"),
}


def papers_order(claim, experiment):
    """Say whether the paper's numbers have the order; None where it has not both."""
    paper = {each.label: each.paper for each in experiment.variants}
    better, worse = (paper[each].get(claim.metric) for each in (claim.better, claim.worse))
    if not isinstance(better, float) or not isinstance(worse, float):
        return None
    return claim.sign * (better - worse) > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_papers_own_numbers_have_the_order_of_its_claims(name):
    experiment = EXPERIMENTS[name]
    against = {
        (name, each.metric, each.better, each.worse)
        for each in experiment.claims
        if papers_order(each, experiment) is False
    }
    assert against == {each for each in CONTRADICTED if each[0] == name}


@pytest.mark.parametrize(
    ("name", "metric", "better", "worse"),
    [
        ("table1", "gfid", "end to end, guided", "gated attention, guided"),
        ("table1", "sfid", "gated attention, guided", "softplus removed, guided"),
        ("table4", "memory_gb", "1/2 of the patches", "SimFlow-like"),
        ("table4", "steps_per_s", "1/2 of the patches", "SimFlow-like"),
        ("table5-mask", "gfid", "mix", "none"),
        ("table5-mask", "accuracy", "0.4-0.6", "mix"),
        ("table5-target", "diverged", "DINO + CLIP", "DINO + HOG"),
        ("table5-target", "gfid", "DINO + CLIP", "all"),
        ("table5-tokens", "rfid", "1/2 of the patches", "3/4 of the patches"),
        ("table8", "gfid", "+ masking", "+ auxiliary loss"),
        ("table8", "is", "+ auxiliary loss", "learnable tokens, no GAN"),
        ("table9", "rfid", "1", "10"),
        ("table10", "train_ms", "1/2 of the patches", "4 times the patches"),
        ("fig5", "log10_kappa_range", "MIMFlow", "STARFlow-like"),
        ("fig6", "accuracy", "latents", "last block"),
    ],
)
def test_a_sentence_of_the_paper_is_judged(name, metric, better, worse):
    claims = {(each.metric, each.better, each.worse) for each in EXPERIMENTS[name].claims}
    assert (metric, better, worse) in claims


@pytest.mark.parametrize("metric", ["memory_gb", "steps_per_s", "sample_s"])
def test_fewer_tokens_are_cheaper_in_the_papers_table_4(metric):
    claim = Claim("", metric, "mimflow", "simflow")
    rows = [Row(label=each, ours={metric: [TABLE4[each][metric]]}) for each in TABLE4]
    assert verdict(claim, rows).startswith("one measurement: the paper's order")
