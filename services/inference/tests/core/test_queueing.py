"""The formulas where the truth is known exactly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference.core.queueing import Arrivals, Service, erlang_c, line

EXPONENTIAL = Service(1.0, 1.0, 6.0, [1.0])
CONSTANT = Service(1.0, 0.0, 1.0, [1.0])
ERLANG = [(1, 0.7, 0.7), (2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (10, 8.0, 0.4092)]


@pytest.mark.parametrize(("servers", "offered", "waits"), ERLANG)
def test_erlangs_c_formula(servers: int, offered: float, waits: float) -> None:
    assert erlang_c(servers, offered) == pytest.approx(waits, abs=1e-4)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.95])
def test_one_exponential_server_is_exact(load: float) -> None:
    expected = line(1, Arrivals(load), EXPONENTIAL)
    assert expected.mean_wait_s == pytest.approx(load / (1 - load))
    assert expected.wait_s(0.99) == pytest.approx(math.log(load / 0.01) / (1 - load), rel=1e-3)
    assert expected.longer_than(2.0) == pytest.approx(load * math.exp(-2 * (1 - load)))


@pytest.mark.parametrize(("scv", "third"), [(0.0, 1.0), (1.0, 6.0), (9.0, 200.0)])
def test_the_mean_at_one_server_is_pollaczek_and_khinchines(scv: float, third: float) -> None:
    expected = line(1, Arrivals(0.8), Service(1.0, scv, third, [1.0]))
    assert expected.mean_wait_s == pytest.approx(0.8 * (1 + scv) / (2 * 0.2), rel=0.02)


def test_constant_service_waits_half_as_long_under_heavy_load_and_more_than_half_under_light() -> None:
    shares = []
    for load in (0.99, 0.5):
        plain, constant = (line(4, Arrivals(4 * load), service).mean_wait_s for service in (EXPONENTIAL, CONSTANT))
        shares.append(constant / plain)
    assert shares[0] == pytest.approx(0.5, abs=0.005)
    assert 0.53 < shares[1] < 0.62


def test_bursts_make_the_line_longer() -> None:
    calm, bursty = (line(4, Arrivals(3.2, scv), EXPONENTIAL).wait_s(0.95) for scv in (1.0, 5.0))
    assert bursty > 2 * calm


def test_a_line_that_grows_without_end_has_no_quantile() -> None:
    expected = line(2, Arrivals(2.0), EXPONENTIAL)
    assert expected.utilisation == 1
    assert expected.wait_s(0.5) == expected.latency_s(0.5, EXPONENTIAL) == math.inf


def test_nobody_waits_where_nobody_comes() -> None:
    expected = line(2, Arrivals(0.0), CONSTANT)
    assert expected.wait_s(0.99) == 0.0
    assert expected.latency_s(0.99, CONSTANT) == pytest.approx(1.0, rel=1e-3)


SERVICES = st.lists(st.floats(1e-4, 100.0), min_size=1, max_size=300).map(Service.of)


@given(SERVICES, st.floats(0.01, 0.99), st.integers(1, 64), st.floats(1.0, 20.0))
def test_more_servers_never_wait_longer_and_quantiles_rise(
    service: Service, load: float, servers: int, burst: float
) -> None:
    arrivals = Arrivals(load * servers / service.mean_s, burst)
    few, more = (line(count, arrivals, service) for count in (servers, servers + 1))
    waits = [few.wait_s(quantile) for quantile in (0.5, 0.9, 0.99)]
    assert waits == sorted(waits)
    assert 0 <= few.mean_wait_s < math.inf
    assert more.mean_wait_s <= few.mean_wait_s * 1.0001
    assert few.latency_s(0.9, service) >= waits[1] * 0.999


@given(SERVICES)
def test_what_stands_for_a_distribution_keeps_its_spread(service: Service) -> None:
    assert len(service.times_s) <= 256
    assert service.scv >= 0
    assert service.third >= 0.99
