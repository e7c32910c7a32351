"""Dashboards depend on these names, types and labels: changing one is a breaking change."""

from monitor_samples import DIGEST, MANIFEST

from monitor.record.metrics import Metrics
from monitor.record.recorder import Recorder
from monitor.types import Action, Detection, Mode, Operator, Status, Steering, UnscoredReason, Verdict

CONTRACT = {
    "plumbline_requests": ("counter", ("model", "phase", "action", "mode", "status")),
    "plumbline_requests_refused": ("counter", ("code",)),
    "plumbline_score": ("histogram", ("model", "concept", "scope")),
    "plumbline_detections": ("counter", ("detector", "mode", "action")),
    "plumbline_time_to_verdict_seconds": ("histogram", ()),
    "plumbline_unscored": ("counter", ("reason", "fail_mode")),
    "plumbline_frames_dropped": ("counter", ("reason",)),
    "plumbline_tokens_scored": ("counter", ()),
    "plumbline_tokens_released": ("counter", ()),
    "plumbline_steering_applied": ("counter", ("direction", "operator")),
    "plumbline_policy_reload": ("counter", ("result",)),
    "plumbline_policy_loaded_timestamp_seconds": ("gauge", ()),
    "plumbline_bundle_info": ("gauge", ("name", "version", "digest", "model")),
    "plumbline_requests_in_flight": ("gauge", ()),
    "plumbline_taps_alive": ("gauge", ()),
    "plumbline_engine_untested": ("gauge", ()),
}


def verdict():
    detection = Detection("harm", "harmful_intent", "harmful_intent", 4.0, 0.98, 2.0, True, 3, Action.STOP)
    return Verdict(
        request_id="r",
        choice=0,
        status=Status.TRIPPED,
        action=Action.STOP,
        enforced=True,
        mode=Mode.ENFORCE,
        policy="p",
        revision="v",
        detections=(detection,),
        steering=(),
        n_prompt=4,
        n_completion=2,
        tokens_seen=6,
        tokens_scored=5,
        unscored={UnscoredReason.NAN: 1},
        created=0.0,
    )


def filled():
    metrics = Metrics()
    metrics.show_bundle(MANIFEST, DIGEST)
    metrics.reloaded("success", 1.0)
    metrics.dropped("lost", 2)
    metrics.watch_engine(lambda: True, lambda: False)
    recorder = Recorder(metrics, MANIFEST)
    recorder.refused("content_filter")
    steering = (Steering("refusal", Operator.ADD), Steering("extra:humour@0123456789abcdef", Operator.CLAMP, low=0.0))
    recorder.record(verdict(), steering, released=1, seconds=0.5, blocks=True)
    return metrics


def test_names_types_and_labels():
    found = {}
    for family in filled().registry.collect():
        labels = {tuple(sorted(set(s.labels) - {"le"})) for s in family.samples}
        assert len(labels) == 1, family.name
        found[family.name] = (family.type, next(iter(labels)))
    assert found == {name: (kind, tuple(sorted(labels))) for name, (kind, labels) in CONTRACT.items()}


def test_values_of_one_verdict():
    value = filled().registry.get_sample_value
    labels = {"model": "organism", "phase": "response", "action": "stop", "mode": "enforce", "status": "tripped"}
    assert value("plumbline_requests_total", labels) == 1
    assert value("plumbline_unscored_total", {"reason": "nan", "fail_mode": "block"}) == 1
    assert value("plumbline_tokens_scored_total") == 5
    assert value("plumbline_tokens_released_total") == 5
    assert value("plumbline_steering_applied_total", {"direction": "extra:humour", "operator": "clamp"}) == 1
    score = {"model": "organism", "concept": "harmful_intent", "scope": "prompt"}
    assert value("plumbline_score_sum", score) == 0.98
    assert (value("plumbline_taps_alive"), value("plumbline_engine_untested")) == (1, 0)


def test_apps_do_not_share_a_registry():
    filled()
    assert Metrics().registry.get_sample_value("plumbline_tokens_scored_total") == 0


def test_the_log_line_of_a_verdict_is_json_without_text(caplog):
    import json

    caplog.set_level("INFO", logger="plumbline.verdict")
    filled()
    (record,) = caplog.records
    line = json.loads(record.message)
    assert line["event"] == "verdict"
    assert line["verdict"]["status"] == "tripped"
    assert set(line["verdict"]) == set(Verdict.__struct_fields__)
