"""Fixtures of the control plane's tests."""

import pytest

from engine.control.tests.support import running_app, use_little_program
from fw_sdk.types.home import Home


@pytest.fixture
def home(tmp_path):
    """A fresh FW_HOME."""
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def little(monkeypatch):
    """Pulls run the little program."""
    use_little_program(monkeypatch)


@pytest.fixture
def server(home, little):
    """(client, services) of a running app whose pulls run the little program."""
    with running_app(home) as (client, app):
        yield client, app.state.services
