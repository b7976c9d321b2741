"""Configurations: a mistake is one message with file, line, value and the nearest valid name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mgcda_dist.config.load import as_of_today, dump_config, load_config
from mgcda_dist.config.sweep import is_sweep_file, load_sweep, plan_runs
from mgcda_dist.errors import ConfigError
from tests.support.commands import mgcda, typed
from tests.support.configs import write_config

CONFIGS = Path(__file__).parents[2] / "configs"
GOOD = """\
name: run
data:
  class_space: idd7
  crop_px: [64, 64]
  streams:
    - {name: a, shards: shards/a, per_step: 4}
    - {name: b, shards: shards/b, per_step: 4, labelled: false}
model:
  backbone: resnet18
optim:
  steps: 10
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    assert path.read_text().startswith("# ")
    configs = [run.config for run in plan_runs(load_sweep(path))] if is_sweep_file(path) else [load_config(path).config]
    workers = [1 if config.scaling.workers == "auto" else config.scaling.workers for config in configs]
    assert all(config.data.global_batch % number == 0 for config, number in zip(configs, workers, strict=True))


@pytest.mark.parametrize("folder", ["multi_source", "synthetic_to_real"])
def test_rows_of_a_benchmark_differ_in_the_two_switches_only(folder: str) -> None:
    names = ("baseline", "mdat", "cacl", "paper")
    rows = {name: load_config(CONFIGS / "benchmark" / folder / f"{name}.yaml").config for name in names}
    switches = {row: (config.mdat.enabled, config.cacl.enabled) for row, config in rows.items()}
    assert switches == {"baseline": (False, False), "mdat": (True, False), "cacl": (False, True), "paper": (True, True)}
    same = {
        config.model_copy(update={"name": "", "mdat": rows["paper"].mdat, "cacl": rows["paper"].cacl}).model_dump_json()
        for config in rows.values()
    }
    assert len(same) == 1


def test_base_overrides_and_round_trip(good: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("base: good.yaml\nname: child\nmdat: {weight: 0.7}\n")
    config = load_config(child, ["optim.steps=20", "data.streams.1.per_step=2", "cacl.enabled=false"]).config
    assert (config.name, config.mdat.weight, config.optim.steps) == ("child", 0.7, 20)
    assert (config.data.streams[1].per_step, config.cacl.enabled, config.mdat.lambda_max) == (2, False, 0.1)
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again).config == config


def test_streams_may_share_a_domain_and_domains_is_the_old_name(good: Path) -> None:
    data = load_config(good, ["data.streams.1.domain=a", "mdat.enabled=false"]).config.data
    assert data.domains == ("a",) and [stream.name for stream in data.streams] == ["a", "b"]
    with pytest.raises(ConfigError, match="needs at least two domains, and all streams show a"):
        load_config(good, ["data.streams.1.domain=a"])
    now = load_config(good).config
    stored = now.model_dump(mode="json")
    stored["data"]["domains"] = [{k: v for k, v in s.items() if k != "domain"} for s in stored["data"].pop("streams")]
    assert as_of_today(stored) == now.model_dump(mode="json"), "an older run resumes"
    with pytest.raises(ConfigError, match="domains: is the old name of `streams`"):
        load_config(good, ["data.domains=[]"])


def test_folders_become_absolute(good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(good).config
    assert config.data.streams[0].shards == str(tmp_path / "shards/a")
    assert config.runs == str(tmp_path / "runs")
    arguments = {"root": "./city", "split": "train", "others": ["../a", {"b": "~/c"}, 3], "name": "x/y", "at": "/d"}
    change = {"data.streams.0.shards": None, "data.streams.0.dataset": "python:mine:Frames"}
    made = load_config(good, change | {"data.streams.0.dataset_arguments": arguments}).config
    assert made.data.streams[0].dataset_arguments == arguments | {
        "root": str(tmp_path / "city"), "others": [str(tmp_path / "../a"), {"b": str(Path.home() / "c")}, 3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("backbone: resnet18", "backbone: resnet18\n  wights: hub"), 10, "did you mean 'model.weights'"),
        (("steps: 10", "steps: ten"), 11, "optim.steps = 'ten'"),
        (("per_step: 4, labelled", "per_step: 4, labeled"), 7, "did you mean 'data.streams.1.labelled'"),
        (("name: run", "name: run\nlambda_max: 1"), 2, "did you mean 'mdat.lambda_max'"),
        (("name: run", "name: run\nevaluation: {max_frames: 3}"), 2, "did you mean 'evaluation.sets.max_frames'"),
        (("idd7", "idd8"), 3, "idd8"),
        (("backbone: resnet18", 'network: "my_nets:f"'), 9, "→ torchvision:NAME, smp:NAME"),
        (("idd7", "{nams: [a]}"), 3, "did you mean 'data.class_space.names'"),
        (("idd7", "[a]"), 3, "input should be 'road8', 'idd7' or 'cityscapes19'"),
        (("name: b", "name: a"), 5, "two streams are named 'a'"),
        (("  steps: 10", "  steps: 10\n  steps: 11"), 12, "given twice"),
        (("steps: 10", "steps: [10"), 12, "not valid YAML"),
    ],
)
def test_a_mistake_is_one_message_with_its_line(good: Path, change: tuple[str, str], line: int, says: str) -> None:
    good.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_config(good)
    assert says in str(caught.value)
    assert caught.value.where == f"{good}:{line}"


def test_two_sources_of_classes_for_unlabelled_pixels_are_refused(good: Path) -> None:
    changes = ["teacher={enabled: true, contrast: true}", "cacl.unlabelled_confidence=0.9"]
    with pytest.raises(ConfigError, match=r"teacher.contrast: the teacher and cacl.unlabelled_confidence"):
        load_config(good, changes)
    assert load_config(good, [*changes, "teacher.enabled=false"]).config.cacl.unlabelled_confidence == 0.9


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("mdat.smoothing.epsilon=0.4", "over the cap 0.250"),
        ("scaling.workers=3", "choose scaling.workers=2 or 4, or per_step values that add up to 6 or 9"),
        (
            "engine.accumulation=3",
            "(a 4 + b 4) cannot be shared by 1 worker × 3 micro-batches; choose engine.accumulation=2",
        ),
        ("scaling.workers=many", "scaling.workers = 'many': neither a whole number from 1 on nor `auto`"),
        ("data.shard_groups=6", "shard_groups: 6 does not divide the per_step 4 of stream a; 2 does"),
        ("scaling.elastic={min: 3, max: 2}", "scaling.elastic: min 3 is over max 2"),
        ("data.streams.7.per_step=1", "no item of a list with 2 items"),
        ("optim.steps", "not of the form key=value"),
        ("engine.zero_stage=4", "engine.zero_stage = 4"),
        ("optim.lr_heads=-1", "greater than 0"),
        ("data.augment.scale=[2, 0.5]", "the smaller one comes first"),
        ("data.streams.0.paste={objects: o, min_objects: 3}", "paste.min_objects: 3 is over max_objects, 2"),
        ("data.streams.1.paste={objects: shards/objects, placement: road}", "no label tells where the road is"),
        ("evaluation.sets=[{name: a, shards: x}, {name: a, shards: y}]", "two sets are named 'a'"),
        ("loss.class_weights={raod: 2}", "loss.class_weights: no class 'raod' here; one of drivable, "),
        ("loss={class_weights: {sky: 2}, outlier: abstention}", "abstention takes the place of the cross-entropy"),
        ("loss.class_weights={sky: 0}", "greater than 0"),
        (
            "data.crop_px=64",
            "data.crop_px = 64: not a list\n  → write a list, [VALUE, …]: height, width of the training",
        ),
        ("name=été", "name = 'été': no name of letters, digits, _ . - that begins with a letter or digit\n  → stable"),
        ("name=2024", "name = 2024: not text\n  → write text in quotes, '…', on a command line \"'…'\": stable"),
        ("name=1e5", "not text\n  → write text in quotes"),
        ("name=no", "not text\n  → write text in quotes"),
        ("model.backbone={a: 1}", "model.backbone: not text\n  → write text"),
        ("mdat=false", "mdat = False: not a section\n  → did you mean mdat.enabled=false?"),
        ("teacher=true", "teacher = True: not a section\n  → did you mean teacher.enabled=true?"),
        ("mdat.smoothing=annealed", "not a section\n  → did you mean mdat.smoothing.mode=annealed?"),
        ("model.weights=resnet.pth", "model.weights = 'resnet.pth': of none of the forms that it takes\n  → of the"),
        ("data.streams.0.dataset=foo", "'foo': of none of the forms that it takes\n  → python:MODULE:NAME"),
        ("data.streams.b.per_step=1", "'b' is no item of a list with 2 items\n  → items count from 0: 0 a, 1 b"),
        ("data.crop_px=[64]", "'data.crop_px.1' is missing\n  → height, width of the training crop, pixels"),
        ("mdat.stages=[x]", "mdat.stages.0 = 'x': not a section\n  → write a mapping, {KEY: VALUE, …}"),
        (
            "cacl={contrast: distribution, positives: per_anchor}",
            "positives: 'per_anchor' is about rows, and `contrast",
        ),
        (
            "cacl={contrast: distribution, queue_layout: sharded}",
            "queue_layout: 'sharded' is about rows, and `contrast",
        ),
        ("model.score=enrgy", "no such score; did you mean energy, or python:MODULE:NAME?"),
        ("model.export=ema", "set teacher.enabled=true, or model.export=student"),
        ("engine.accumulation=0", "greater than or equal to 1\n  → "),
    ],
)
def test_an_impossible_override_names_itself(good: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(good, [override])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.score={a: 1}", "model.score: input should be 'msp', "),
        (
            "data.class_space={names: [a], ids: {own: {1-2: a}}}",
            "data.class_space.ids.own.1-2: no key: input should be",
        ),
        ("data.class_space={names: [a], ids: {own: 3}}", "data.class_space.ids.own = 3: not a section"),
        ("data.class_space={own: {own: 3}}", "'data.class_space.names' is missing"),
        ("data.class_space={own: {own: 3}}", "unknown key 'data.class_space.own'"),
        ("optim.freeze={a: 1}", "optim.freeze: not a list"),
        ("scaling.workers={a: 1}", "scaling.workers: "),
        ("data.augment.own=[python:a:b, {arguments: {}}]", "'data.augment.own.1.use' is missing"),
    ],
)
def test_a_refusal_names_the_key_as_it_was_typed(good: Path, override: str, says: str) -> None:
    """… and not the kinds of value among which pydantic looked for one that fits; each key once."""
    with pytest.raises(ConfigError) as caught:
        load_config(good, [override])
    said = str(caught.value)
    assert says in said and not re.search(r"[a-z]\[.*\]: |\.(str|int|known)\b|\[key\]", said.split("': ", 1)[1]), said
    assert said.count(says) == 1 and said.count(override) == said.count("command line")


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e999"])
@pytest.mark.parametrize(
    "key",
    [
        "evaluation.threshold={}",
        "evaluation.scales=[{}]",
        "optim.lr_heads={}",
        "loss.outlier_weight={}",
        "loss.class_weights={{sky: {}}}",
        "data.augment.scale=[1, {}]",
        "data.streams.0.paste={{objects: o, feather_px: {}}}",
        "scaling.hang_timeout_s={}",
        "loss={{outlier: 'python:x:Loss', arguments: {{a: [1, {{b: {}}}]}}}}",
        "phases=[{{name: a, steps: 1, optim: {{lr_heads: {}}}}}, {{name: b, steps: 1}}]",
    ],
)
def test_a_number_that_is_not_finite_is_refused(good: Path, key: str, number: str) -> None:
    override = key.format(number)
    with pytest.raises(ConfigError) as caught:
        load_config(good, ["optim.steps=2", override])
    assert repr(override) in str(caught.value)
    assert any(says in str(caught.value) for says in ("finite number", "greater than"))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("names: [a, a], ids: {own: {0: a}}", "names: 'a' is there twice"),
        ("names: [a, void], ids: {own: {0: a}}", "names: 'void' is there twice, or one of normal, anomaly, void"),
        ("names: [a], ids: {own: {0: b}}", "ids.own.0: no class 'b'; one of a, normal, anomaly, void"),
        ("names: [a], ids: {own: {256: a}}", "less than or equal to 255"),
        ("names: [a, b], ids: {own: {0: a}}", "names: nothing is mapped to b"),
        ("names: [a]", "names: nothing is mapped to a"),
        ("names: [a], map: {road: a}", "map.road: no class to map; map needs based_on"),
        ("names: [a], based_on: idd7, map: {road: a}", "map.road: no class to map; idd7 has drivable"),
        ("names: [drivable, sky], based_on: idd7, map: {vehicle: sky}", "idd7's classes non_drivable, living_thing, "),
        ("names: [a], ids: {own: {0: a}}, road: [b]", "road: no class 'b'; one of a"),
    ],
)
def test_a_user_defined_class_space_must_be_complete(good: Path, space: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(good, [f"data.class_space={{{space}}}"])
    assert says in str(caught.value) and "data.class_space." in str(caught.value)


def test_a_user_defined_class_space_needs_a_road_to_paste_on(good: Path) -> None:
    space, paste = "{names: [lane], ids: {own: {0: lane}}}", "{objects: shards/o, placement: road}"
    with pytest.raises(ConfigError, match=r"name the classes .* in data\.class_space\.road"):
        load_config(good, [f"data.class_space={space}", f"data.streams.0.paste={paste}"])
    overrides = [f"data.class_space={space}", f"data.streams.0.paste={paste}", "data.class_space.road=[lane]"]
    data = load_config(good, overrides).config.data
    assert (data.class_names, data.road_classes) == (("lane",), ("lane",))


def test_all_missing_folders_are_named(good: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(good, ["model.weights=file:/nowhere"]).check_files()
    said = str(caught.value).splitlines()
    assert [f"{good}:{line}: " in text for line, text in zip((6, 7), said, strict=False)] == [True, True]
    assert "there is no file '/nowhere'" in said[2] and said[3].startswith("  → write them with")


def test_folders_behind_urls_are_not_looked_for_on_disk(good: Path) -> None:
    load_config(good, [f"data.streams.{i}.shards=s3://bucket/{i}" for i in (0, 1)]).check_files()


def test_a_domain_without_shards_is_named_with_its_line(good: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.streams\.0\.shards: no shards in") as caught:
        load_config(good).check_files()
    assert caught.value.where == f"{good}:6"


def test_a_missing_file_and_a_base_loop(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*demo\.yaml"):
        load_config(CONFIGS / "dmo.yaml")
    loop = tmp_path / "loop.yaml"
    loop.write_text("base: loop.yaml\nname: x\n")
    with pytest.raises(ConfigError, match="leads back"):
        load_config(loop)


def test_a_base_that_is_not_there_is_said_where_it_is_named(tmp_path: Path) -> None:
    """… and neither the file that asks nor one that asked for that is proposed, since they would make a loop."""
    ours = [tmp_path / name for name in ("nb.yaml", "nc.yaml")]
    ours[0].write_text("name: x\nbase: nope.yaml\n")
    ours[1].write_text("base: nb.yaml\n")
    for asking in ours:
        with pytest.raises(ConfigError, match=r"there is no file .*nope\.yaml") as caught:
            load_config(asking)
        assert caught.value.where == f"{ours[0]}:2: base" and "nb.yaml" not in caught.value.remedy
        assert asking.name not in caught.value.remedy
    (tmp_path / "nopes.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match=r"did you mean .*nopes\.yaml"):
        load_config(ours[0])
    with pytest.raises(ConfigError, match=r"^configuration: base: there is no file"):
        load_config({"base": str(tmp_path / "absent.yaml")})


def test_command_line_prints_one_message_and_exits_2(good: Path) -> None:
    good.write_text(GOOD.replace("steps: 10", "stps: 10"))
    run = typed("config", "check", good)
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: {good}:11: unknown key 'optim.stps'")
    assert "Traceback" not in run.stderr and run.stdout == ""


def test_the_line_of_a_sound_configuration_counts_in_words(good: Path) -> None:
    good.write_text(GOOD.replace("    - {name: b, shards: shards/b, per_step: 4, labelled: false}\n", ""))
    off = ("mdat.enabled=false", "cacl.enabled=false", "optim.steps=1", "scaling.workers=1")
    done = typed("config", "check", good, *off, "--no-files")
    assert "ok. 1 stream of 1 domain, " in done.stdout and ", 1 step, ZeRO" in done.stdout, done.stderr


def test_show_prints_the_resolved_configuration(good: Path) -> None:
    run = typed("config", "show", good)
    assert run.returncode == 0, run.stderr
    assert yaml.safe_load(run.stdout)["mdat"]["lambda_max"] == 0.1


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path, tiny_shards: Path) -> None:
    path = tmp_path / "run.yaml"
    text = GOOD.replace("idd7", "road8").replace("shards/a", f"{tiny_shards}/render_a/train")
    path.write_text(text.replace("shards/b", f"{tiny_shards}/real_day/train") + "cacl: {enabled: false}\n"
                    "loss: {outlier: none}\n")  # fmt: skip
    run = mgcda("train", path, "runs=/proc/nowhere")
    assert run.returncode == 2
    said = "error: runs: /proc/nowhere cannot be written to"
    assert [line.startswith(said) for line in run.stderr.splitlines()] == [True, False], run.stderr


def test_a_base_that_the_package_brings_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs/deeper").mkdir(parents=True)
    own = write_config(Path("configs/deeper/own.yaml"), {"base": "../demo.yaml", "name": "own"})
    assert load_config(own).config.data.global_batch == load_config(CONFIGS / "demo.yaml").config.data.global_batch
    write_config(Path("configs/demo.yaml"), {"base": "small_real.yaml", "name": "nearer"})
    assert load_config(Path("configs/demo.yaml")).config.name == "nearer"
