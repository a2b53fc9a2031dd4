import csv
import gzip
import io
import json
import re
import shlex
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_builders import new_task, splits, table_reader, task_split
from eval import baselines, score, tables
from logreasoner import config
from logreasoner.cli import UserError
from logreasoner.files import ROOT
from logreasoner.instances import read_instances
from logreasoner.reading import Log, Reading

NAME = "disk-failures"
TUTORIAL = ROOT / "docs" / "tutorial" / "disk-failures.csv"
ANIMALS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay", "koi", "lark", "mole", "newt"]


@pytest.fixture
def place(own_place):
    return own_place


def run(*arguments, path=TUTORIAL, name=NAME):
    """Run the command as a user would; a UserError comes through as SystemExit, anything else as itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["new_task", "--name", name, "--from", str(path), *arguments])
        new_task.main()


def table(path, rows, header=("message", "state")):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def many(count=60):
    """Rows of two classes whose texts differ in more than numbers."""
    return [(f"{one} met {other} {word} on its way", label)
            for word, label in (("and fled", "bad"), ("and played", "fine"))
            for one, other in list(combinations(ANIMALS, 2))[:count]]


def part(name):
    return list(read_instances(Path("build/data/own") / NAME / f"{name}.jsonl"))


def test_the_logs_of_a_folder_are_sources_and_rotated_parts_are_one(place, capsys):
    logs = place / "logs"
    (logs / "a").mkdir(parents=True)
    (logs / "b").mkdir()
    lines = [f"{label} {text}\n" for text, label in many()]
    for name, part_of in (("a/app.log", lines[1::4]), ("a/app.log.1", lines[::4]), ("b/app.log", lines[2::4]),
                          ("b/db.log", lines[3::4])):
        (logs / name).write_text("".join(part_of))
    run("--format", r"(?P<label>\w+) (?P<text>.*)", path=logs)
    said = capsys.readouterr().out
    assert f"note: {logs}/a/app.log: is one log of the files app.log.1, app.log, in this order" in said
    assert f"{logs}: 120 rows, columns 'label', 'text', 'file'" in said
    assert "--source       'file'   3 values" in said
    rows = part("train") + part("test")
    assert Counter(item.source for item in rows) == {"a-app": 60, "b-app": 30, "b-db": 30}
    assert len({item.id for item in rows}) == 120 and any(item.id.startswith(f"{NAME}-b-db-7-") for item in rows)
    read = config.task(NAME).reading
    assert read.text == "text" and read.format.startswith("(?P<label>")
    (logs / "c.log").write_text('{"text": "a"}\n' * 9)
    with pytest.raises(SystemExit, match="the files have several layouts .*c.log jsonl.*"):
        run("--format", "auto", "--replace", path=logs)


def test_the_tutorials_file_becomes_a_task_with_disjoint_splits(place, capsys):
    run()
    output = capsys.readouterr().out
    assert "--text         'message'" in output and "--label        'state'" in output and "'failing'" in output
    assert "opposite labels: 2 left out" in output and "without text: 1 left out" in output
    task = config.task(NAME)
    assert (task.labels, task.positive, task.metrics) == (["healthy", "failing"], "failing",
                                                          ["precision", "recall", "f1"])
    rows = {name: part(name) for name in ("train", "test")}
    group = task_split.near_duplicates(rows["train"] + rows["test"])
    assert not {group[item.id] for item in rows["train"]} & {group[item.id] for item in rows["test"]}
    assert "test logs with a near-duplicate in training (the same template): 0%" in output
    for name in (NAME, f"demo-{NAME}"):
        declared = config.declare(name, config.resolve(name, []))
        assert declared.experiment.finetuning == ("full" if name.startswith("demo") else "lora")
        splits.make_splits(name)
        drawn = {split: list(read_instances(declared.splits / f"{split}.jsonl"))
                 for split in ("stage1", "stage2", "examples", "test")}
        for one, other in combinations(drawn, 2):
            assert not {i.masked for i in drawn[one]} & {i.masked for i in drawn[other]}, (one, other)
        assert all({i.label for i in items} == {"healthy", "failing"} for items in drawn.values())
        counts = declared.experiment.stage1.samples[NAME], declared.experiment.stage2.samples[NAME]
        for split, samples in zip(("stage1", "stage2"), counts, strict=True):
            assert Counter(i.source for i in drawn[split]) == samples
        assert 0 < declared.experiment.stage1.select < len(drawn["stage1"])
    # What the demo leaves over teaches its tiny model the form.
    assert len(rows["train"]) - sum(len(drawn[split]) for split in ("stage1", "stage2", "examples")) > 50


def test_its_baselines_are_scored_and_have_their_table(place, capsys, monkeypatch):
    run()
    folder = config.declare(NAME, config.resolve(NAME, [])).dir
    splits.make_splits(NAME)
    assert baselines.fitting(config.load_run(NAME)) == ["majority", "always-positive", "tfidf-lr"]
    result = folder / "results" / "tfidf-lr" / "baseline"
    for main, arguments in (
            (baselines.main, ["--run", NAME, "--model", "tfidf-lr", "--out", "R.jsonl"]),
            (score.main, ["--run", NAME, "--model", "tfidf-lr", "--stage", "baseline", "--responses", "R.jsonl",
                          "--out", str(result / "result.json")]),
            (tables.main, ["--run", NAME])):
        monkeypatch.setattr("sys.argv", ["x", *arguments])
        main()
    text = (folder / "results" / "tables.md").read_text()
    assert f"# Results: run {NAME}" in text and "Precision" in text and "| 47 |" in text
    assert "paper's Table" not in text and "not run" not in text


def test_splits_without_the_instances_say_how_to_make_them(place):
    run()
    shutil.rmtree("build/data/own")
    config.declare(NAME, config.resolve(NAME, []))
    with pytest.raises(UserError, match=f"make new-task NAME={NAME} .*--replace"):
        splits.make_splits(NAME)


def test_nothing_is_overwritten_without_being_told(place, capsys):
    run()
    with pytest.raises(SystemExit, match="is there already.*--replace"):
        run()
    run("--replace", "--positive", "healthy")
    config.task.cache_clear()
    assert config.task(NAME).positive == "healthy"
    with pytest.raises(SystemExit, match="not a custom task"):
        run("--replace", name="anomaly_detection")
    for name in ("../x", "Demo", "demo-x", "table3", "a b", ""):
        with pytest.raises(SystemExit, match="--name"):
            run(name=name)


def test_more_than_two_classes_are_scored_by_accuracy_and_the_question_is_the_users(place):
    rows = [(f"{text} {at}", f"kind {at % 3}") for at, (text, _) in enumerate(many())]
    run("--question", "Which: kind?", "--source", "none", path=table(place / "x.csv", rows, ("log", "category")))
    task = config.task(NAME)
    assert (task.positive, task.metrics, task.question) == (None, ["accuracy", "weighted_f1"], "Which: kind?")
    assert {item.source for item in part("train")} == {"x-csv"}


@pytest.mark.parametrize(("rows", "flags", "message"), [
    ([(text, "same") for text, _ in many()], ["--label", "state"], "only one class"),
    (many() + [("a rare one", "bad luck")], [], "'bad luck' has 1 distinct logs"),
    ([(text, str(at)) for at, (text, _) in enumerate(many())], ["--label", "state"], "an id rather than a label"),
    ([(text, f"{label}</answer>") for text, label in many()], [], "cannot be a label"),
    ([(text, "x" * 70 + label) for text, label in many()], [], "cannot be a label"),
    (many(), ["--label", "nope"], "no column 'nope'"),
    (many(), ["--positive", "nope"], "not one of the labels"),
    (many(), ["--mask", "("], "not a regular expression"),
    (many(), ["--label-rule", "(=bad"], "not a regular expression"),
    (many(), ["--label-rule", "bad"], "should read REGEX=LABEL"),
    ([], [], "holds no rows"),
])
def test_what_stops_a_task(place, capsys, rows, flags, message):
    path = table(place / "x.csv", rows)
    with pytest.raises(SystemExit, match=message):
        run(*flags, path=path)
    assert not list(place.glob(f"experiments/*/*{NAME}*")) and not Path("build").exists()


@pytest.mark.parametrize(("rows", "flags", "message"), [
    (many(30), [], "'bad' has only 30 distinct logs: on the 6 that are tested"),
    (many() + [("", "bad"), ("something", "")], [], "without a label: 1 left out (disk-failures-123-"),
    ([(f"{text}. {label.upper()}", label) for text, label in many()], [], "stands in 100% of its own texts"),
    ([(text + " long" * 1000, label) for text, label in many()], [], "are dropped in training (cutoff_len 2,096)"),
    ([(f"read {at}", "bad") for at in range(60)] + many()[60:], [], "'bad' differ only in values"),
    (many(), ["--label-rule", "fled=bad"], "no more than the rule"),
    ([(f"WLAN/{4 if label == 'bad' else 6}/{text.replace(' and', '').upper()}", label) for text, label in many()], [],
     "word 2 alone (4, 6) gives the label in 97% and more of each class"),
])
def test_what_is_warned_about(place, capsys, rows, flags, message):
    run(*flags, path=table(place / "x.csv", rows))
    assert message in capsys.readouterr().out
    assert {item.label for item in part("test")} == {item.label for item in part("train")}


TIMES = [f"2026-03-{day:02} {hour:02}:00:00" for day in range(1, 11) for hour in range(12)]


@pytest.mark.parametrize(("columns", "given", "note"), [
    ("when", TIMES[::-1], "the rows are sorted by time for --latest"), ("when", TIMES, ""),
    ("Date,Time", [time.replace(" ", ",") for time in TIMES[::-1]], "the rows are sorted by time for --latest"),
    ("when", [time[11:] for time in TIMES], "as they stand in the file, are taken for the latest"),
    ("when", [f"0{3 + at // 60}/0{1 + at % 7}/2026 08:30" for at in range(120)], "as they stand in the file"),
    ("when", [f"{month} 28 08:00:00" for month in ("Dec", "Jan") for _ in range(60)], "as they stand in the file"),
    ("when", ["", *TIMES[:0:-1]], "as they stand in the file"), ("a", TIMES[::-1], "as they stand in the file")])
def test_the_latest_are_so_by_time(place, capsys, columns, given, note):
    rows = [(*value.split(","), text, ("bad", "fine")[at % 2]) for at, (value, (text, _)) in enumerate(
        zip(given, many(), strict=True))]
    path = table(place / "x.csv", rows, (*columns.split(","), "message", "state"))
    run("--latest", "--text", "message", "--label", "state", path=path)
    said = capsys.readouterr().out
    assert note in said if note else "for --latest" not in said and "for the latest" not in said
    lines = sorted(int(item.id.split("-")[2]) for item in part("test"))
    assert lines == list(range(2, 26) if "sorted" in note else range(98, 122))


def test_the_latest_of_several_logs_are_of_all(place, capsys):
    logs = place / "logs"
    logs.mkdir()
    for name, skip in (("a", 0), ("b", 1)):
        (logs / f"{name}.log").write_text("".join(f"{time} {('bad', 'fine')[at % 3 == 0]} {text}\n" for at, (
            time, (text, _)) in enumerate(zip(TIMES, many(), strict=True)) if at % 2 == skip))
    run("--format", r"(?P<time>\S+ \S+) (?P<label>\w+) (?P<text>.*)", "--latest", path=logs)
    assert "the rows are sorted by time for --latest" in capsys.readouterr().out
    assert Counter(item.id.split("-")[2] for item in part("test")) == {"a": 12, "b": 12}


def test_every_pool_has_the_rare_label(place):
    rows = [(text, label) for text, label in many(91) if label == "fine"] + [row for row in many(12) if "bad" in row]
    run(path=table(place / "x.csv", rows))
    config.declare(NAME, config.resolve(NAME, []))
    splits.make_splits(NAME)
    drawn = {name: Counter(item.label for item in read_instances(config.load_run(NAME).splits / f"{name}.jsonl"))
             for name in ("stage1", "stage2", "test")}
    assert all(counts["bad"] >= 2 for counts in drawn.values())


def test_a_mask_hides_what_tells_the_label(place, capsys):
    run("--mask", "bad|fine", path=table(place / "x.csv", [(f"{text}: {label}", label) for text, label in many()]))
    assert "of its own texts" not in capsys.readouterr().out
    assert all(item.text.endswith(": [MASK]") for item in part("train") + part("test"))


def test_a_mask_that_only_one_class_has_is_warned_of(place, capsys):
    rows = [(f"{text[:at % 9]} ERROR {text[at % 9:]}" if label == "bad" else text, label)
            for at, (text, label) in enumerate(many())]
    run("--mask", "ERROR", path=table(place / "x.csv", rows))
    assert "[MASK] stands in 100% of the texts of 'bad' and in 0% of the others" in capsys.readouterr().out


def test_labels_in_other_case_are_one_and_repeats_go(place):
    rows = [(text, label.upper() if at % 5 == 0 else label) for at, (text, label) in enumerate(many())]
    run(path=table(place / "x.csv", rows + rows[:7]))
    assert config.task(NAME).labels == ["bad", "fine"] and len(part("train") + part("test")) == len(rows)


def test_a_mask_hides_words_only_and_the_rule_is_looked_for_in_what_it_leaves(place, capsys):
    rows = [(f"{text} 1 of 11: {1 if label == 'bad' else 'ok'}", "1" if label == "bad" else "0")
            for text, label in many()]
    run("--label-rule", "ok$=fine", "--other-label", "bad", "--mask", "of", path=table(place / "x.csv", rows))
    assert "no more than the rule" in capsys.readouterr().out
    run("--label-rule", "ok$=fine", "--other-label", "bad", "--mask", r"\S+$", "--replace", path=place / "x.csv")
    assert "no more than the rule" not in capsys.readouterr().out
    texts = [f"{text}{'，磁盘故障了' if label == 'bad' else ' error01'}" for text, label in many()]
    run("--replace", "--label", "state", path=table(place / "x.csv", [
        (text, "故障" if "故障" in text else "error01") for text in texts]))
    output = capsys.readouterr().out
    advice = re.findall(r"--mask ('[(][?]i[^']+')", output)
    assert len(advice) == 2 and "'故障' stands in 100% of its own texts" in output
    masks = [part for mask in advice for part in ("--mask", shlex.split(mask)[0])]
    run("--replace", "--label", "state", *masks, path=place / "x.csv")
    assert "of its own texts" not in capsys.readouterr().out
    assert {item.text.partition("[MASK]")[2] for item in part("test")} == {"", "了"}


@pytest.mark.parametrize(("columns", "expected"), [
    ({"log": "/var/log/app/much/longer/than/the/text/x{}.log", "msg": "disk {} failed"}, "msg"),
    ({"log": "C:\\Program Files\\app\\logs of {}.log", "msg": "disk {} failed"}, "msg"),
    ({"message": "/data/日志/应用/应用程序{}.log", "detail": "端口{}断开"}, "detail"),
    ({"event": "E-{}-link-state-of-a-port-changed", "text": "port {} is down"}, "text"),
    ({"url": "https://example.org/a/b/c/d/e/{}", "detail": "port {} is down"}, "detail"),
    ({"log": "/dev/sd{} is full", "msg": "full {} now"}, "log"), ({"event": "E{}", "id": "00000{}"}, "event")])
def test_paths_and_codes_are_no_texts(place, columns, expected):
    values = {name: [text.format(at) for at in range(40)] for name, text in columns.items()}
    assert new_task._text_column(place, values, 40)[0] == expected


@pytest.mark.parametrize(("columns", "expected"), [
    ({"msg": (40, "served {}"), "error.message": (9, "the connection was closed by the other side {}")}, "msg"),
    ({"msg": (40, "served"), "error": (9, "the connection was closed by the other side {}")}, "msg"),
    ({"detail": (40, "port {} is down"), "message": (9, "the connection was closed by the other side {}")}, "detail"),
    ({"level": (40, "INFO"), "ts": (40, "Mar 02 08:00:{}"), "seen": (40, "2026-03-02 08:00:{}"),
      "message": (9, "port {} is down")}, "message")])
def test_a_text_that_most_rows_lack_is_not_chosen_where_another_is_possible(place, columns, expected):
    values = {name: [text.format(10 + at) for at in range(count)] for name, (count, text) in columns.items()}
    assert new_task._text_column(place, values, 40)[0] == expected


def test_a_text_that_most_rows_lack_is_said(place, capsys):
    rows = [(text if at % 3 == 0 else "", "a", label) for at, (text, label) in enumerate(many(91))]
    run(path=table(place / "x.csv", rows, ("note", "level", "state")))
    assert "note: only 61 of 182 rows have a 'note'; if the text is in another column, name it with --text" in \
        capsys.readouterr().out


def test_an_explanation_is_left_out_and_said(place, capsys):
    rows = [(text, label, f"It is {label} as it {text}.") for text, label in many()]
    run(path=table(place / "x.csv", rows, ("message", "state", "Explanation")))
    assert "column 'Explanation' is left out" in capsys.readouterr().out
    assert {item.description for item in part("train")} == {""}
    run("--description", "Explanation", "--replace", path=place / "x.csv")
    assert "is left out" not in capsys.readouterr().out and all(item.description for item in part("train"))


def test_texts_without_blanks(place):
    one, other = "端口3断开", "用户7登录成功"
    header = ("message", "url", "label")
    rows = [(f"{text}{at}", f"https://example.org/{'x' * 40}/{at}", label)
            for at, (text, label) in enumerate([(one, "a"), (other, "b")] * 20)]
    read = table_reader.read(Log(table(place / "x.csv", rows, header)))
    assert new_task._text_column(place, {name: read.values(name) for name in header}, 40)[0] == "message"


@pytest.mark.parametrize(("values", "expected"), [
    (["1", "1.0", "0", "0.0"], {"1", "0"}), (["Yes", "Y", "y", "No", "n"], {"Yes", "No"}),
    (["caf\xe9", "cafe\u0301", "tea"], {"caf\xe9", "tea"}),
    (["bad", "NaN", "null", "NA", "n/a", "good"], {"bad", "", "good"}),
    (["a\nb", "b\na", "b\n a\nb", "c"], {"a + b", "c"}), (["TRUE", "t", "False", "F"], {"TRUE", "False"}),
    (["1.5", "1.50", "v1", "v1.0"], {"1.5", "v1", "v1.0"})])
def test_labels_that_are_one_are_merged_and_said(values, expected):
    given = new_task.argparse.Namespace(label_rule=[], merge=[], drop_rare=1)
    rows = table_reader.Table(Path("x.csv"), ["label"], [{"label": value} for value in values])
    assert set(new_task.read_labels(rows, {"label": "label"}, given)) == expected
    merged = {value for value in values if "\n" not in value and value not in expected} - {"NaN", "null", "NA", "n/a"}
    assert all(any(repr(value) in note for note in rows.notes) for value in merged)


def test_classes_that_are_too_small_are_merged_or_left_out(place, capsys):
    kinds = ["disk, hard"] * 9 + ["disk, soft"] * 9 + ["odd"] * 2 + ["fan"] * 40 + ["fine"] * 60
    path = table(place / "x.csv", [(text, kind) for (text, _), kind in zip(many(), kinds, strict=True)])
    run("--merge", "disk, hard, disk, soft=disk", "--merge", "fine=ok", "--drop-rare", "8", path=path)
    assert config.task(NAME).labels == ["ok", "fan", "disk"] and "'odd' (2)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"--merge 'disk=x': should read LABEL,LABEL=LABEL; there are disk, hard"):
        run("--merge", "disk=x", "--replace", path=path)


def test_sources_of_any_script_are_kept(place):
    names = ["北京机房", "上海机房", "Zürich 1", "***", "+++"]
    slugs = [new_task.source_slug(name) for name in names]
    assert slugs[:3] == ["北京机房", "上海机房", "zürich-1"] and len(set(slugs)) == 5
    rows = [(text, label, names[at % 2]) for at, (text, label) in enumerate(many())]
    run("--source", "where", path=table(place / "x.csv", rows, ("message", "state", "where")))
    assert {item.source for item in part("train")} == set(names[:2])
    splits_of = config.declare(NAME, config.resolve(NAME, []))
    splits.make_splits(NAME)
    assert {item.source for item in read_instances(splits_of.splits / "stage2.jsonl")} == set(names[:2])


def test_logs_that_differ_in_a_number_between_slashes_are_not_the_same_text(place, capsys):
    rows = [(f"slot/{at % 9}/port is {'down' if label == 'bad' else 'up'}: {text}", label)
            for at, (text, label) in enumerate(many(20))]
    rows += [(f"slot/{at}/port lost its link", "bad" if at % 2 else "fine") for at in range(10)]
    run(path=table(place / "x.csv", rows))
    assert "left out" not in capsys.readouterr().out


COLUMNS = {"when": [f"2026-01-0{at % 9 + 1}" for at in range(80)], "host": [f"node{at % 7}" for at in range(80)],
           "message": [f"short {at}" for at in range(80)], "level": ["INFO", "WARN"] * 40,
           "description": [f"a rather longer explanation of number {at}" for at in range(80)],
           "verdict": ["ok", "ok", "ok", "bad"] * 20, "vendor": ["acme", "umbrella"] * 40}


@pytest.mark.parametrize(("names", "flags", "expected"), [
    (list(COLUMNS), [], ("message", "verdict", "description", "vendor")),
    (["when", "host", "description", "verdict"], [], ("description", "verdict", "", "")),
    (["level", "message"], [], "which column is the label.*'level'"),
    (list(COLUMNS), ["--text", "description", "--label", "level", "--source", "none"],
     ("description", "level", "", "")),
    (["message", "level", "host"], [], "which column is the label.*'level' \\(2 values\\), 'host' \\(7 values\\)"),
    (["message", "when"], ["--label", "when"], ("message", "when", "", "")),
    (["message"], ["--label", "message"], "no column is left"),
])
def test_columns_are_seen(place, capsys, names, flags, expected):
    path = table(place / "x.csv", zip(*(COLUMNS[name] for name in names), strict=True), names)
    parsed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new_task, "new_task", lambda given: parsed.update(vars(given)))
        run(*flags, path=path)
    given = new_task.argparse.Namespace(**parsed)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            new_task.choose_columns(table_reader.read(Log(path)), given)
        return
    columns, _ = new_task.choose_columns(table_reader.read(Log(path)), given)
    assert tuple(columns.values()) == expected


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{"text": "a, \"b\"\nc", "label": "x"}, {"text": "naïve 日志", "label": "y"}]
    table(tmp_path / "a.csv", [row.values() for row in rows], ("text", "label"))
    with open(tmp_path / "a.tsv", "w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows([("text", "label"), *(row.values() for row in rows)])
    (tmp_path / "b.csv").write_text((tmp_path / "a.csv").read_text(), encoding="utf-16")
    (tmp_path / "c.csv").write_text((tmp_path / "a.csv").read_text(), encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        result = table_reader.read(Log(path))
        assert (result.columns, result.rows, result.notes) == (["text", "label"], rows, []), path


def test_json_values_become_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"log": ["one", "two"], "label": true, "n": 1}\n\n{"log": "x\\u0000\\ud800", "label": null}\n')
    result = table_reader.read(Log(path))
    assert result.rows == [{"log": "one\ntwo", "label": "True", "n": "1"}, {"log": "x?", "label": "", "n": ""}]
    assert result.lines == [1, 3]


BROKEN = {
    "quote.csv": (b'text,label\n"a"b,c\n', "quote.csv:2: the quotes of the table are broken"),
    "open.csv": (b'text,label\n"a,b\n', "broken"),
    "field.csv": (b'text,label\n"' + b"x" * 10_000_000 + b'",b\n', "field.csv:2: .*field larger than"),
    "short.csv": (b"text,label\na,b\nc, d, e\n", "short.csv:3: 3 fields where the first line names 2"),
    "twice.csv": (b"a,a\n1,2\n", "two columns are called 'a'"),
    "wide.csv": (b",".join(b"c%d" % at for at in range(600)) + b"\n" + b"x," * 599 + b"x\n", "more than 500 columns"),
    "empty.csv": (b"", "empty.csv: is empty"),
    "bad.jsonl": (b'{"a": "b"}\n{"a": \n', "bad.jsonl:2: not valid JSON"),
    "list.jsonl": (b'{"a": "b"}\n["a"]\n', "list.jsonl:2: expected an object"),
    "deep.json": (b"[" * 100_000, "not valid JSON"),
    "long.jsonl": (json.dumps({"a": "x" * 2_000_000}).encode(), "long.jsonl:1: a value is longer than 1 MiB"),
    "bad.parquet": (b"PAR1 no", "not a Parquet file"),
    "bad.csv.gz": (b"\x1f\x8bno", "the archive cannot be read"),
    "raw.log": (b"one line\n", "need --format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_line(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        table_reader.read(Log(tmp_path / name))


def test_latin1_and_nuls_are_noted(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\ncaf\xe9\0,b\n".encode("latin-1"))
    result = table_reader.read(Log(tmp_path / "a.csv"))
    assert result.rows == [{"text": "café", "label": "b"}]
    assert "is not UTF-8 and is read as CP1252, a guess" in result.notes[0]
    assert "1 NUL characters removed" in result.notes[1]


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "LARGEST", 1000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000))
    with pytest.raises(UserError, match="larger than"):
        table_reader.read(Log(tmp_path / "a.csv.gz"))


def test_raw_lines_by_name_and_by_expression(tmp_path):
    path = tmp_path / "app.log"
    path.write_text("one ERROR a\ntwo INFO b\n\nthree INFO c\n")
    result = table_reader.read(Log(path), Reading(format=r"(?P<word>\w+) (?P<level>[A-Z]+) (?P<text>[ab])"))
    assert result.columns == ["word", "level", "text"] and [row["text"] for row in result.rows] == ["a", "b"]
    assert result.lines == [1, 2] and "1 lines do not match" in result.notes[0]
    lines = Reading(format="lines")
    rows = table_reader.read(Log(path), lines, limit=2).rows
    assert [row["text"] for row in rows] == ["one ERROR a", "two INFO b"]
    rows = table_reader.read(Log(path), lines, window=3).rows
    assert rows == [{"text": "one ERROR a\ntwo INFO b\nthree INFO c"}]
    (tmp_path / "bgl.log").write_text("".join(
        f"{mark} 11{at} 2005.06.03 R02 x R02 RAS KERNEL INFO said {at}\n" for at, mark in enumerate(["-", "K", "-"])))
    rows = table_reader.read(Log(tmp_path / "bgl.log"), Reading(format="bgl")).rows
    assert [(row["text"], row["label"]) for row in rows] == [
        ("said 0", "normal"), ("said 1", "abnormal"), ("said 2", "normal")]
    for layout, message in (("nope", "named groups"), ("(", "neither one of"), ("(?P<a>zzz)", "none of 4 lines has")):
        with pytest.raises(UserError, match=message):
            table_reader.read(Log(path), Reading(format=layout))


def test_labels_by_rule_on_another_column(place):
    lines = [f"{'ERROR' if label == 'bad' else 'INFO'} {text}" for text, label in many()]
    (place / "app.log").write_text("\n".join(lines))
    run("--format", r"(?P<level>\w+) (?P<text>.*)", "--label-rule", "ERROR|FATAL=abnormal", "--rule-column", "level",
        path=place / "app.log")
    assert config.task(NAME).positive == "abnormal"
    assert Counter(item.label for item in part("train") + part("test")) == {"normal": 60, "abnormal": 60}
    assert not any("ERROR" in item.text for item in part("train"))


def test_rows_without_the_column_of_the_rule_are_said_or_left_out(place, capsys):
    lines = [json.dumps({"msg": text, "http": {"status": 502 if label == "bad" else 200}}) for text, label in many()]
    (place / "a.jsonl").write_text("\n".join(['{"msg": "it begins"}', *lines, '{"msg": "it ends"}']))
    more = ("--rule-column", "http.status", "--label-rule", "^5=failed")
    run(*more, path=place / "a.jsonl")
    assert "2 rows have no 'http.status', so they are 'normal'" in capsys.readouterr().out
    run(*more, "--label-rule", "^2=served", "--other-label", "", "--replace", path=place / "a.jsonl")
    said = capsys.readouterr().out
    assert "so they are" not in said and "rows without a label: 2 left out" in said
    assert Counter(item.label for item in part("train") + part("test")) == {"failed": 60, "served": 60}


@given(st.binary(max_size=300), st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "zip", "log"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_lead_to_a_traceback(tmp_path, data, ending):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(data)
    try:
        result = table_reader.read(Log(path), Reading(format="lines" if ending == "log" else "table"))
    except UserError:
        return
    assert result.rows and all(set(row) == set(result.columns) and not any("\0" in value for value in row.values())
                              for row in result.rows)


CELLS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1), st.sampled_from(",;\t|"))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_comes_back_as_written(tmp_path, rows, delimiter):
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    (tmp_path / "x.csv").write_bytes(stream.getvalue().encode())
    not_blank = [row for row in rows if any(cell.strip() for cell in row)]
    if not not_blank:
        return
    result = table_reader.read(Log(tmp_path / "x.csv", encoding="utf-8"))
    assert [(row["text"], row["label"]) for row in result.rows] == not_blank


@given(st.lists(st.tuples(CELLS, st.sampled_from(["fine", "bad", ""])), max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_table_leads_to_a_traceback_or_to_a_task_that_splits_refuse(place, rows):
    table(place / "x.csv", rows + many(12))
    arguments = ["--name", NAME, "--from", str(place / "x.csv"), "--text", "message", "--label", "state", "--replace"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["new_task", *arguments])
        try:
            new_task.main()
        except SystemExit as stopped:
            assert str(stopped).startswith("error: ")
            return
    config.task.cache_clear()
    experiment = config.resolve(NAME, [])
    train, test = part("train"), part("test")
    drawn = splits.build(config.Run(NAME, experiment), train, test, [])[1]
    assert not splits.proof(drawn, [], [NAME])[2]


def test_declarations_are_plain_yaml(place):
    run("--question", "x: [y] # z\n- 'q'")
    text = (place / "experiments" / "tasks" / f"{NAME}.yaml").read_text()
    assert text.startswith(new_task.HEADER) and yaml.safe_load(text)["question"] == "x: [y] # z\n- 'q'"
