"""One page for all tests of it."""

import pytest

from tests.reporting.pages import whole


@pytest.fixture(scope="session")
def report():
    return whole()


@pytest.fixture(scope="session")
def page(report, tmp_path_factory):
    return report.to_html(tmp_path_factory.mktemp("page") / "report.html")
