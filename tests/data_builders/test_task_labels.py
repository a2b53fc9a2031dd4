"""The label's column and the positive class are chosen by what names and values say, and asked for otherwise."""

from pathlib import Path

import pytest

from data_builders.task_labels import label_column, positive_class, words
from logreasoner.cli import UserError

ROWS = 40
VALUES = {  # a column's name -> its values, repeated
    "label": ["a", "b"], "anomaly": ["0", "1"], "label_source": ["hand", "rule"], "AnomalyLabel": ["0", "1", "2", "3"],
    "AnomalyLabelName": ["ok", "cpu", "mem", "net"], "month": ["Jun", "Jul"], "pid": ["17", "23"], "state": ["x", "y"],
    "kind": ["normal", "abnormal"], "code": ["4", "5"], "statute": ["x", "y"],
    "class": ["core", "edge"], "is_anomaly": ["yes", "no"], "fault": ["disk", "cpu", "none"], "category": ["x", "y"],
    "flag": ["0.0", "1.0"], "outcome": ["ok", "failed"], "cached": ["true", "false"], "failure_type": ["a", "b"]}


def columns(*names):
    return {name: (VALUES[name] * ROWS)[:ROWS] for name in names}


@pytest.mark.parametrize(("names", "expected"), [
    (["label", "state"], "label"), (["label_source", "anomaly"], "anomaly"), (["state", "month"], "state"),
    (["kind", "month"], "kind"), (["pid", "label"], "label"), (["class", "is_anomaly"], "is_anomaly"),
    (["class", "fault"], "fault"), (["class", "kind"], "kind"), (["state", "outcome"], "outcome"),
    (["cached", "month"], "cached"), (["label_source", "kind"], "kind"), (["failure_type", "is_anomaly"], "is_anomaly"),
    (["label", "outcome"], "label"), (["flag", "month"], "flag")])
def test_a_label_is_called_so_or_judges(names, expected):
    assert label_column(Path("x.csv"), columns(*names), ROWS)[0] == expected


@pytest.mark.parametrize(("names", "said"), [
    (["month"], "there is 'month' \\(2 values\\)"), (["pid"], "'pid'"),
    (["code"], "'code'"), (["statute"], "'statute'"),
    (["AnomalyLabel", "AnomalyLabelName"], "as likely are 'AnomalyLabel' .4 values., 'AnomalyLabelName' .4 values."),
    (["label", "anomaly"], "as likely are 'label' .2 values., 'anomaly'"),
    (["class", "category"], "'class'.*'category'"),
    (["state", "cached"], "as likely are 'state'.*'cached'"),
    (["kind", "outcome"], "as likely are 'kind'.*'outcome'"),
    ([], "no other column")])
def test_a_column_with_few_values_alone_is_no_label(names, said):
    with pytest.raises(UserError, match=f"which column is the label.*{said}"):
        label_column(Path("x.csv"), columns(*names), ROWS)


@pytest.mark.parametrize(("name", "expected"), [
    ("AnomalyLabelName", ["anomaly", "label", "name"]), ("is_failure", ["is", "failure"]),
    ("HTTPStatus", ["http", "status"]), ("状态", ["状态"]), ("", [])])
def test_names_are_read_word_by_word(name, expected):
    assert words(name) == expected


@pytest.mark.parametrize(("labels", "expected"), [
    (["normal", "abnormal"], "abnormal"), (["True", "False"], "True"), (["no failure", "failure"], "failure"),
    (["0", "1"], "1"), (["0.0", "1.0"], "1.0"),
    (["a", "b", "error"], None), (["attack", "normal"], "attack"), (["ok", "degraded"], "degraded"),
    (["benign", "DDoS"], "DDoS"), (["reachable", "not reachable"], "not reachable"),
    (["unhealthy", "healthy"], "unhealthy"), (["up", "down"], "down"), (["-", "KERNDTLB"], "KERNDTLB")])
def test_the_positive_class_is_what_is_searched_for(labels, expected):
    assert positive_class(labels, None)[0] == expected


@pytest.mark.parametrize("column", ["success", "is_normal", "Reachable"])
@pytest.mark.parametrize("labels", [["true", "false"], ["1.0", "0.0"]])
def test_true_of_something_good_is_not_searched_for(column, labels):
    with pytest.raises(UserError, match="--positive"):
        positive_class(labels, None, column)
    assert positive_class(["true", "false"], None, "is_failure")[0] == "true"


@pytest.mark.parametrize("labels", [["1", "-1"], ["1.0", "-1.0"], ["a", "b"], ["attack", "intrusion"],
                                    ["default", "tuned"], ["fault cleared", "info"]])
def test_a_positive_class_that_no_name_tells_is_asked_for(labels):
    with pytest.raises(UserError, match=f"which label is searched for, {labels[0]} or {labels[1]}.*--positive"):
        positive_class(labels, None)
    assert positive_class(labels, labels[0])[0] == labels[0]
