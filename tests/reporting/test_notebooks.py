"""What notebooks show of results: HTML in which names are text."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.reporting.pages import HOSTILE, whole
from tfcompress.reporting import Report, Row, report


def test_a_report_and_trust():
    made = whole()
    for shown in (made._repr_html_(), made.evidence.trust._repr_html_()):
        assert "<table>" in shown
        assert HOSTILE not in shown


def test_a_verification_and_a_diagnosis():
    failed = tfcompress.Verification(1.0, None, 0.5, None, 3, False, ("a < b",))
    shown = failed._repr_html_()
    assert "FAILED on 3 samples" in shown
    assert "a &lt; b" in shown
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert "will deploy" in tfcompress.doctor(model, trial=False)._repr_html_()


def test_what_makes_its_own_report():
    class Result:
        def report(self):
            return Report((Row("a", "keras", 4, 3),))

    made = report(Result(), history={"loss": [1.0]})
    assert made.rows[0].name == "a"
    assert made.evidence.history == {"loss": (1.0,)}
    with pytest.raises(tfcompress.InvalidArgumentError):
        report(Result(), evaluate=np.mean)
