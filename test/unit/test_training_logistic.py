"""The regression behind gate and opinions: it finds weights again, and says so when there is nothing to learn."""

import numpy as np
import pytest

from training.logistic import fit_logistic


def test_weights_are_found_again():
    rng = np.random.default_rng(1)
    wanted = np.array([-1.0, 2.0, -0.5])
    rows = np.column_stack([np.ones(20_000), rng.normal(3.0, 0.7, 20_000), rng.normal(-50.0, 9.0, 20_000)])
    chance = 1 / (1 + np.exp(-(rows - [0, 3, -50]) @ wanted))
    found = fit_logistic([tuple(row) for row in rows], list(rng.random(20_000) < chance))
    assert found[1:] == pytest.approx(wanted[1:], abs=0.1)
    assert found[0] == pytest.approx(wanted[0] - 3 * wanted[1] + 50 * wanted[2], abs=2.0)


def test_a_feature_that_never_changes_has_no_say_and_separable_examples_end():
    rows = [(1.0, 7.0, x) for x in (-1.0, -0.9, 0.9, 1.0)]
    constant, _, slope = fit_logistic(rows, [False, False, True, True])[0:3]
    assert np.isfinite(constant)
    assert 1.0 < slope < 100.0


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_one_kind_alone_teaches_nothing(labels):
    with pytest.raises(ValueError, match="some of both kinds are needed"):
        fit_logistic([(1.0, 0.5)] * len(labels), labels)
