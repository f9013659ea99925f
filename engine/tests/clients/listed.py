"""A plug-in of pytest: takes what `listed.txt` says of tests for granted, and fails when it is no longer so."""

import os
import pathlib

import docker
import pytest

LISTED = pathlib.Path(__file__).with_name("listed.txt")


def pytest_collection_modifyitems(items):
    verdicts = {}
    for line in LISTED.read_text().splitlines():
        if line and not line.startswith("#"):
            verdict, name, reason = line.split(maxsplit=2)
            verdicts[name] = (verdict, reason)
    for item in items:
        path, *rest = item.nodeid.split("::")
        file = os.path.basename(path)
        for name in (file, "::".join([file, *rest])):
            verdict, reason = verdicts.get(name, (None, None))
            if verdict == "differs":
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
            elif verdict == "skipped":
                item.add_marker(pytest.mark.skip(reason=reason))
            elif verdict == "early":
                item.add_marker(pytest.mark.early(reason))


def pytest_configure(config):
    config.addinivalue_line("markers", "early: reads a log before the container had time to write it")


@pytest.fixture(autouse=True)
def patience(request, monkeypatch):
    if request.node.get_closest_marker("early"):
        start = docker.APIClient.start

        def start_and_wait(client, container, *args, **kwargs):
            start(client, container, *args, **kwargs)
            client.wait(container)

        monkeypatch.setattr(docker.APIClient, "start", start_and_wait)
