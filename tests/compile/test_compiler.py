"""Compiling: the library computes what torch does, and serving it takes TVM's runtime alone."""

import itertools
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import tvm
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.relax_integration import extract_tasks

from model_builder import candidates, evaluate, publish
from model_builder.__main__ import main
from model_builder.compile import compiler, records, tuner
from model_builder.graph.fake_quantized import plain
from model_builder.graph.trace import trace
from model_builder.kernels import tuning_space
from model_builder.networks.reader import SIZE, LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.train.data import validation_set
from service import artifact as contract
from service.artifact import Artifact, Library, Origin, Probe, Score, Source
from service.backends import load
from service.backends.tvm import Network, choose, cpu_flags, flush_denormals
from service.errors import ArtifactError
from service.settings import REPOSITORY

SMALL = Widths(4, (4,), (8,), (8,), 8, 4)
LEVEL = compiler.level("x86-64-v3")
EVERYWHERE = Library(file="x86-64-v3.so", level="x86-64-v3", needs=LEVEL.needs)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Five rendered plates, uint8 (5, 24, 94, 3)."""
    return validation_set(5).images


@pytest.fixture(scope="module")
def network(crops: np.ndarray) -> LPRNet:
    """A small network with statistics as if it had been trained."""
    torch.manual_seed(0)
    network = LPRNet(len(ALPHABET) + 1, SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
        for _ in range(2):
            network.train()(torch.from_numpy(crops))
    return network.eval()


@pytest.fixture(scope="module")
def lowered(network: LPRNet) -> tvm.IRModule:
    """The network as kernels, after all passes."""
    return compiler.lowered(network, LEVEL, compiler.Passes())


@pytest.fixture(scope="module")
def published(network: LPRNet, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The network as `baseline`, and what the command line compiles from it. Copy before changing anything."""
    root = tmp_path_factory.mktemp("published")
    publish.publish(root, candidates.torch_candidate("baseline", network, Origin(seed=7)), {})
    options = ["--artifacts", str(root), "--target", LEVEL.name, "--rendered", "5", "--max-loss", "0"]
    assert main(["compile", *options]) == 0
    return contract.find(root, "tvm")


@pytest.fixture
def artifact(published: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the compiled artifact."""
    return contract.read(Path(shutil.copytree(published.folder, tmp_path / "tvm")))


def with_libraries(artifact: Artifact, *libraries: Library) -> Artifact:
    return contract.write(artifact.folder, artifact.manifest.model_copy(update={"libraries": libraries}))


def logits(network: LPRNet, crops: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(crops)).numpy()


def test_folding_changes_no_logit(network, crops):
    folded = plain(trace(network, SIZE))
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    np.testing.assert_allclose(logits(folded, crops), logits(network, crops), atol=1e-4)


def test_each_stage_adds_one_pass():
    stages = list(compiler.stages().items())
    assert not any(asdict(stages[0][1]).values())
    assert stages[-1][1] == compiler.Passes()
    for (_, before), (name, after) in itertools.pairwise(stages):
        assert asdict(after) == {**asdict(before), name: True}


@pytest.mark.slow
def test_every_convolution_is_one_kernel_with_its_bias_and_relu(lowered):
    names = [variable.name_hint for variable in lowered.get_global_vars()]
    convolutions = [name for name in names if "conv2d" in name or "winograd_output" in name]
    assert len(convolutions) == 7
    assert all("add" in name for name in convolutions)
    assert sum("relu" in name for name in convolutions) == 6  # all but the classifier
    assert sum("winograd_output" in name for name in convolutions) == 3  # all of 3x3
    assert sum("transpose" in name for name in names) == 2  # of the crop, where two cancel out, and of the logits


@pytest.mark.slow
def test_passes_that_are_switched_off_leave_no_trace(network, lowered):
    plain = compiler.lowered(network, LEVEL, compiler.stage("layout"))
    names = [variable.name_hint for variable in plain.get_global_vars()]
    assert not any("fused" in name or "winograd" in name for name in names)
    assert (weights_to_pack(lowered), weights_to_pack(plain)) == (7, 0)


def weights_to_pack(module: tvm.IRModule) -> int:
    multiplying = ("conv2d", "winograd_products")
    functions = module.functions.items()
    return sum(
        bool(function.attrs.get("layout_free_buffers"))
        for variable, function in functions
        if any(name in variable.name_hint for name in multiplying)
    )


@pytest.mark.slow
def test_a_record_schedules_its_kernel_and_packs_its_weights(network, lowered, crops, tmp_path):
    tasks = extract_tasks(lowered, LEVEL.target)
    starts = ("winograd_products", "fused_conv2d")
    kernels = [next(task for task in tasks if task.task_name.startswith(start)) for start in starts]
    for kernel in kernels:
        record(kernel, tmp_path / "x86-64-v4.json")  # of another level, for want of one's own
    module, untuned = compiler.scheduled(network, LEVEL, records=tmp_path)
    assert untuned  # the others
    names = [variable.name_hint for variable in module.get_global_vars()]
    assert "weight_prepack" not in module["main"].script()  # they were packed ahead of time
    for kernel in kernels:
        assert kernel.task_name not in untuned
        assert f"{kernel.task_name}_prepacked" in names
    compiler.export(module, LEVEL, tmp_path / "packed.so")
    packed = Network((tmp_path / "packed.so").read_bytes(), [crops.shape[1:]], 1)
    np.testing.assert_allclose(packed(crops), logits(network, crops), atol=1e-3)


def record(kernel: ms.ExtractedTask, path: Path) -> None:
    """Write a tuning record of a schedule that reads the weights in another order."""
    schedule = tvm.s_tir.Schedule(kernel.dispatched[0], seed=1)
    tuning_space.tiled(schedule, lanes=2)
    schedule.enter_postproc()
    assert ms.postproc.RewriteLayout().apply(schedule)
    work = path.parent / kernel.task_name
    work.mkdir()
    database = ms.database.JSONDatabase(work_dir=str(work))
    workload = database.commit_workload(kernel.dispatched[0])
    trial = ms.database.TuningRecord(schedule.trace, workload, [1e-6], kernel.target, [])
    database.commit_tuning_record(trial)
    ((key, trials),) = tuner.tried_in(work).items()
    records.keep(path, key, {"kernel": kernel.task_name, "cpu": "none", "trials": 1, "trial": trials[0]})


def test_the_fastest_record_of_each_kernel_is_kept(tmp_path):
    path = tmp_path / "new" / "level.json"

    def keep(key: str, seconds: float, cpu: str = "a") -> None:
        records.keep(path, key, {"kernel": f"kernel {key}", "cpu": cpu, "trials": 9, "trial": ["trace", [seconds]]})

    for key, seconds in (("1", 3.0), ("2", 1.0), ("2", 2.0), ("1", 2.5)):
        keep(key, seconds)
    assert {key: record["trial"][1] for key, record in records.read(path).items()} == {"1": [2.5], "2": [1.0]}
    keep("2", 2.0, cpu="b")  # the seconds of two CPUs don't compare
    assert records.read(path)["2"]["cpu"] == "b"
    assert records.tuned_on(path) == ("a", "b")
    assert records.tuned_on(tmp_path / "none.json") == ()


def test_the_trials_of_an_interrupted_search_are_counted(tmp_path):
    (tmp_path / "database_workload.json").write_text('["17", "..."]\n["4", "..."]\n')
    (tmp_path / "database_tuning_record.json").write_text('[1, ["a", [1.0]]]\n[1, ["b", [0.5]]]\n')
    assert tuner.tried_in(tmp_path) == {"17": [], "4": [["a", [1.0]], ["b", [0.5]]]}
    assert tuner.tried_in(tmp_path / "none") == {}


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="x86-64-v4, x86-64-v3, x86-64-v4-vnni or native"):
        compiler.level("pentium")
    with pytest.raises(ValueError, match="untuned, fold"):
        compiler.stage("last")


def test_native_is_what_this_cpu_can_do():
    native = compiler.level("native")
    assert "sse4_2" in native.needs
    assert cpu_flags().issuperset(native.needs)


@pytest.mark.slow
def test_the_manifest_tells_what_was_compiled(published):
    manifest = published.manifest
    source = contract.find(published.folder.parent, "baseline").manifest
    assert (manifest.backend, manifest.libraries) == ("tvm", (EVERYWHERE,))
    assert sorted(manifest.files) == ["probe.npz", "x86-64-v3.so"]
    assert manifest.provenance.source == Source.of(source)
    assert manifest.version == source.version  # the same weights
    assert (manifest.measured.parameters, manifest.measured.multiply_adds) == (
        source.measured.parameters,
        source.measured.multiply_adds,
    )


@pytest.mark.slow
def test_the_library_computes_what_torch_does(published, network, crops):
    backend = load(published)
    assert backend.engine.startswith("tvm 0.")
    assert backend.engine.endswith(" x86-64-v3")
    expected = logits(network, crops)
    for count in range(1, len(crops) + 1):
        np.testing.assert_allclose(backend.infer(crops[:count]), expected[:count], atol=1e-3)
    flipped = crops[:, ::-1]
    np.testing.assert_array_equal(backend.infer(flipped), backend.infer(flipped.copy()))
    backend.close()


@pytest.mark.slow
def test_logits_belong_to_the_caller(published, crops):
    backend = load(published)
    first = backend.infer(crops[:1])
    kept = first.copy()
    backend.infer(crops[1:])
    np.testing.assert_array_equal(first, kept)


@pytest.fixture
def candidate(published: Artifact) -> candidates.Candidate:
    """The compiled network as its own library thrice: one for another CPU, one that is served, one with a probe."""
    source = contract.find(published.folder.parent, "baseline")
    plain = compiler.candidate(source, "thrice", (LEVEL,))
    path = published.file(EVERYWHERE.file)
    others = (
        Library(file=EVERYWHERE.file, level="future", needs=("warp",)),
        EVERYWHERE,
        Library(file=EVERYWHERE.file, level="slow", needs=LEVEL.needs, probe=Probe(file="slow.npz", tolerance=1e-3)),
    )
    return replace(
        plain,
        write=lambda folder: shutil.copy(path, folder),
        libraries=others,
        others={"slow.npz": plain.logits},
    )


@pytest.mark.slow
def test_every_library_that_this_cpu_can_run_is_checked(candidate, tmp_path, capsys):
    made = publish.publish(tmp_path, candidate, {})
    assert sorted(made.manifest.files) == ["probe.npz", "slow.npz", "x86-64-v3.so"]
    assert made.manifest.libraries == candidate.libraries
    assert "future: this CPU lacks what it needs, so the library was not run" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("probe", ["probe.npz", "slow.npz"])
def test_a_library_that_differs_from_its_reference_is_not_published(candidate, tmp_path, probe):
    def wrong(crops: np.ndarray) -> np.ndarray:
        return candidate.logits(crops) + np.float32(0.01)

    off = replace(candidate, others={probe: wrong}) if probe != "probe.npz" else replace(candidate, logits=wrong)
    with pytest.raises(ArtifactError, match=rf"{probe}: tvm .* is off by 0\.01, more than the 0\.001 allowed"):
        publish.publish(tmp_path, off, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_library_that_loses_too_much_is_not_published(candidate, published, tmp_path, monkeypatch):
    def accuracy(artifact: Artifact, _backend: object, _crops: object) -> Score:
        slow = [library.level for library in artifact.manifest.libraries] == ["slow"]
        return evaluate.wilson(8 if slow else 9, 9)

    monkeypatch.setattr(evaluate, "accuracy", accuracy)
    crops = validation_set(9)
    gate = publish.Gate(contract.find(published.folder.parent, "baseline"), crops, max_loss=11)
    with pytest.raises(publish.Refused, match="the library for slow reads 8 of 9 rendered plates, baseline 9"):
        publish.publish(tmp_path, candidate, {"rendered": crops}, gate)
    assert list(tmp_path.iterdir()) == []
    made = publish.publish(tmp_path, candidate, {"rendered": crops}, replace(gate, max_loss=12))
    assert made.manifest.measured.accuracy["rendered"].exact == 9


@pytest.mark.slow
def test_the_first_library_that_the_cpu_can_run_is_chosen(artifact):
    fastest = Library(file="x86-64-v3.so", level="from the future", needs=("sse4_2", "warp"))
    both = with_libraries(artifact, fastest, EVERYWHERE)
    assert load(both).engine.endswith(" x86-64-v3")
    assert choose(both, cpu_flags() | {"warp"}) == fastest


@pytest.mark.slow
def test_a_cpu_that_can_run_none_is_told_what_it_lacks(artifact, crops):
    foreign = with_libraries(artifact, Library(file="x86-64-v3.so", level="future", needs=("sse4_2", "warp", "light")))
    with pytest.raises(ArtifactError, match=r"no library that this CPU can run \(future needs warp, light\)") as error:
        load(foreign)
    assert "compile --target native" in str(error.value)


@pytest.mark.slow
def test_an_artifact_without_a_library_is_refused(artifact):
    with pytest.raises(ArtifactError, match="it lists none"):
        load(with_libraries(artifact))


@pytest.mark.slow
def test_without_tvm_the_extra_to_install_is_named(published, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ArtifactError, match=r"needs the tvm engine: pip install '\.\[tvm\]' in the repository"):
        load(published)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"not a library", b""])
def test_a_damaged_library_is_refused(artifact, content):
    path = artifact.folder / "x86-64-v3.so"
    path.unlink()  # a library that is loaded stays as it is
    path.write_bytes(content)
    damaged = contract.write(artifact.folder, artifact.manifest)
    with pytest.raises(ArtifactError, match=r"x86-64-v3\.so cannot be loaded by tvm"):
        load(damaged)


def test_flags_are_read_as_the_kernel_writes_them(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nflags\t\t: fpu avx2 fma\nbugs\t: spectre\n\nprocessor\t: 1\nflags\t\t: fpu avx2\n"
    )
    assert cpu_flags(cpuinfo) == {"fpu", "avx2", "fma"}
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_flags(cpuinfo) == frozenset()
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_denormals_are_flushed_on_the_calling_thread_only():
    seen = []

    def compute() -> None:
        denormal = np.full(8, 1e-39, np.float32)
        seen.append(float((denormal * np.float32(1)).max()))
        flush_denormals()
        seen.append(float((denormal * np.float32(1)).max()))

    thread = Thread(target=compute)
    thread.start()
    thread.join()
    assert seen == [pytest.approx(1e-39, rel=1e-3), 0.0]
    assert (np.full(8, 1e-39, np.float32) * np.float32(1)).max() > 0


SERVE = """
import sys
from pathlib import Path
if sys.argv[2] == "absent":
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise ImportError("No module named 'torch'")
    sys.meta_path.insert(0, Absent())
from service import artifact
from service.pipeline.inference_threads import Crew
team = Crew([artifact.read(Path(sys.argv[1]))], 2, lambda _engine: lambda _items: None, print)  # it computes the probe
team.close()
mapped = Path("/proc/self/maps").read_text()
print(team.engine.split()[0], "tvm_runtime" in mapped, "tvm_compiler" in mapped, "libtorch" in mapped)
print([name for name in ("torch", "tvm", "model_builder") if name in sys.modules])
"""


@pytest.mark.slow
@pytest.mark.parametrize("torch_is", ["absent", "installed"])
def test_serving_loads_neither_torch_nor_the_compiler(published, torch_is):
    command = [sys.executable, "-c", SERVE, str(published.folder), torch_is]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["tvm True False False", "[]"]
