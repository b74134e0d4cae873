"""Numbers on loopback: Prometheus' text format, and no answer to a request in another host's name."""

import http.client

import pytest

from federation.metrics import Metrics, serve


@pytest.fixture
def served():
    metrics = Metrics()
    metrics.describe("asked_total", "counter", "how often")
    metrics.add("asked_total", kind='a"b')
    metrics.add("asked_total", 2, kind='a"b')
    metrics.ask("here", "always one", lambda: 1)
    server = serve(0, {"/metrics": lambda: ("text/plain", metrics.text().encode())})
    yield server
    server.close()


def get(port, path, host="127.0.0.1"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    read = answer.status, answer.read().decode()
    connection.close()
    return read


def test_metrics_are_in_the_text_format(served):
    status, text = get(served.port, "/metrics")

    assert status == 200
    assert text == (
        '# HELP asked_total how often\n# TYPE asked_total counter\nasked_total{kind="a\\"b"} 3.0\n'
        "# HELP here always one\n# TYPE here gauge\nhere 1\n"
    )


def test_another_hosts_name_and_another_path_are_refused(served):
    assert get(served.port, "/metrics", host="evil.example")[0] == 421
    assert get(served.port, "/else")[0] == 404
