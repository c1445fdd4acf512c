"""The metrics of several processes in one scrape: each series is of one of them, and of no sum that may fall."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from roundhouse.telemetry.events import RequestEnded
from roundhouse.telemetry.merged import Family, exposition_of, families_of
from roundhouse.telemetry.prometheus import Meter


def _told(requests: int) -> list[Family]:
    """As it travels."""
    meter = Meter()
    for number in range(requests):
        meter.record(RequestEnded(str(number), "default", "demo", "ok", 1.5, first_token_s=0.5))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(families_of(meter.registry)), type=list[Family])


def test_every_series_says_whose_it_is_and_every_family_is_there_once() -> None:
    text = exposition_of({"one": _told(3), "two": _told(5)}, "entrance").decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert text.count("# TYPE roundhouse_requests_total counter") == 1
    found = {
        (sample.name, sample.labels["entrance"], sample.labels.get("le")): sample.value
        for family in families
        for sample in family.samples
    }
    assert found["roundhouse_requests_total", "one", None] == 3
    assert found["roundhouse_requests_total", "two", None] == 5
    assert found["roundhouse_time_to_first_token_seconds_bucket", "two", "0.5"] == 5
    assert found["roundhouse_request_seconds_sum", "one", None] == 4.5


def test_one_process_alone_tells_the_same_numbers_as_by_itself() -> None:
    meter = Meter()
    meter.record(RequestEnded("1", "default", "demo", "ok", 1.5))
    labelled = exposition_of({"one": families_of(meter.registry)}, "entrance").decode()
    bare = labelled.replace('entrance="one",', "").replace(',entrance="one"', "").replace('{entrance="one"}', "")
    assert sorted(bare.splitlines()) == sorted(meter.exposition().decode().splitlines())
