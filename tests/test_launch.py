"""Launch scripts print what they would do, do what they print, and go on when machines are taken away.

The programs they call (gcloud, kubectl, sbatch ...) are stand-ins that note their arguments; those of a TPU run the
remote commands in a directory for each worker.
"""

import functools
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time

import pytest
import yaml

from stvsr_jax.data import datasets, mixture, windows
from tests.limits import HANG

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
CLOUD = {"PROJECT": "my-project", "ZONE": "us-east5-b", "BUCKET": "gs://my-bucket"}
GKE = CLOUD | {"CLUSTER": "my-cluster", "IMAGE": "us-docker.pkg.dev/my-project/r/stvsr:1"}
CAMPAIGN = {"NETWORK": "videoinr", "CLIPS": "a b", "PHOTOS": "/photos", "STEPS": "9", "DEVICES": "0,1"}
TRAIN = ["--", "--config", "configs/videoinr.py", "--config.data.path=a b'c\"$HOME\\"]

# Notes the arguments, then does as the lines that follow say.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, shutil, signal, subprocess, sys
world = pathlib.Path(os.environ["WORLD"])
with (world / "calls").open("a") as calls:
    calls.write(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
"""
# Two workers. The third time their status is asked for, the TPU is pre-empted; from then on training succeeds at once.
TPU = """
state = world / "state"
arguments = sys.argv[1:]
verb = arguments[3] if arguments[:3] == ["compute", "tpus", "tpu-vm"] else ""
homes = [world / "worker0", world / "worker1"]
if verb == "create":
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)
        (home / ".local" / "bin").mkdir(parents=True)
        shutil.copy(world / "uv", home / ".local" / "bin")
    state.write_text("READY")
elif verb == "describe":
    if not state.exists():
        sys.exit("ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource was not found")
    print(state.read_text())
elif verb == "delete":
    state.unlink()
elif verb == "scp":
    for home in homes:
        shutil.copy(arguments[4], home / arguments[5].partition(":")[2])
elif verb == "ssh":
    (command,) = [a.partition("=")[2] for a in arguments if a.startswith("--command=")]
    if "echo worker" in command:
        asked = world / "asked"
        asked.write_text(asked.read_text() + "." if asked.exists() else ".")
        if len(asked.read_text()) == 3 and not (world / "steady").exists():
            state.write_text("PREEMPTED")
            (world / "succeed").touch()
    if state.read_text() != "READY":
        sys.exit("ERROR: connection refused")
    which = homes if "--worker=all" in arguments else homes[:1]
    codes = [subprocess.run(["bash", "-c", command], cwd=h, env=os.environ | {"HOME": str(h)}).returncode for h in which]
    sys.exit(max(codes))
"""
UV = """#!/bin/sh
if [ "$1" = venv ]; then mkdir -p .venv/bin && cp "$WORLD/python" .venv/bin/python; fi
"""
PYTHON = """#!/bin/sh
echo "$@" >> "$WORLD/trained"
if [ -f "$WORLD/exit_with" ]; then echo "it went wrong"; exit "$(cat "$WORLD/exit_with")"; fi
[ -f "$WORLD/succeed" ] || exec sleep 20
"""


@pytest.fixture
def world(tmp_path):
    """Return a directory with stand-ins in `bin` and a function that runs a script among them."""
    (tmp_path / "bin").mkdir()
    for name, rest in (("gcloud", TPU), ("kubectl", ""), ("sbatch", ""), ("srun", ""), ("scontrol", "")):
        write_program(tmp_path / "bin" / name, STAND_IN + rest)
    # Of the source, which is archived for the workers, a small part stands for all.
    write_program(tmp_path / "bin" / "git", f'#!/bin/sh\nexec "{shutil.which("git")}" "$@" launch\n')
    write_program(tmp_path / "uv", UV)
    write_program(tmp_path / "python", PYTHON)
    return tmp_path


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def launch(world, script, *arguments, **settings):
    """Run a launch script; returns its exit code and what it printed."""
    environment = {
        "PATH": f"{world / 'bin'}:{os.environ['PATH']}",
        "HOME": str(world),
        "WORLD": str(world),
        "TMPDIR": str(world),
        "POLL": "0",
    }
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env=environment | settings,
        cwd=world,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def calls(world):
    path = world / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    program = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed")
    command = [program, "--shell=bash", "--external-sources", f"--source-path={LAUNCH.parent}:{LAUNCH}", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "settings"),
    [
        ("tpu.sh", ["create"], CLOUD),
        ("tpu.sh", ["create"], CLOUD | {"SPOT": "yes", "ACCELERATOR": "v6e-16"}),
        ("tpu.sh", ["create"], CLOUD | {"SPOT": "yes", "QUEUED": "yes"}),
        ("tpu.sh", ["logs"], CLOUD),
        ("tpu.sh", ["stop"], CLOUD),
        ("tpu.sh", ["run", *TRAIN], CLOUD),
        ("tpu.sh", ["fetch"], CLOUD),
        ("tpu.sh", ["delete"], CLOUD),
        ("gke.sh", ["build"], GKE),
        ("gke.sh", ["status"], GKE),
        ("gke.sh", ["logs"], GKE),
        ("gke.sh", ["fetch"], GKE),
        ("gke.sh", ["delete"], GKE),
    ],
)
def test_dry_run_prints_the_commands_that_are_run(world, script, arguments, settings):
    dry = launch(world, script, "--dry-run", *arguments, **settings)
    assert dry.returncode == 0 and not calls(world), dry.stderr
    printed = [shlex.split(line) for line in dry.stdout.splitlines()]
    (world / "state").write_text("READY")
    for home in ("worker0", "worker1"):
        (world / home / "stvsr_jax_run").mkdir(parents=True)
        (world / home / "stvsr_jax_run" / "log.txt").write_text("step 1\n")
    launch(world, script, *arguments, **settings)
    assert [call for call in printed if call[0] != "mkdir"] == calls(world)
    assert calls(world)


def test_tpu_commands_are_those_of_gcloud(world):
    done = launch(world, "tpu.sh", "--dry-run", "create", **CLOUD)
    place = "--project=my-project --zone=us-east5-b --quiet"
    assert done.stdout == (
        f"gcloud compute tpus tpu-vm create stvsr {place} --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite\n"
    )
    done = launch(world, "tpu.sh", "--dry-run", "create", **CLOUD, QUEUED="yes", SPOT="yes", NAME="run-7")
    assert done.stdout == (
        f"gcloud compute tpus queued-resources create run-7 --node-id=run-7 {place} "
        "--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite --spot\n"
    )
    done = launch(world, "tpu.sh", "--dry-run", "delete", **CLOUD, QUEUED="yes")
    assert done.stdout == f"gcloud compute tpus queued-resources delete stvsr {place} --force\n"


def test_tpu_dry_run_of_training_prints_every_step(world):
    done = launch(world, "tpu.sh", "train", "--dry-run", *TRAIN, **CLOUD, DATA="gs://my-bucket/data/adobe240")
    lines = done.stdout.splitlines()
    verbs = [shlex.split(line)[4] for line in lines if line.startswith("gcloud compute tpus")]
    assert verbs == ["create", "scp", "ssh", "ssh", "ssh", "delete"]
    assert "gcloud storage rsync --recursive gs://my-bucket/data/adobe240 data/adobe240" in done.stdout
    assert "when the TPU is pre-empted" in done.stdout and not calls(world)


def test_tpu_training_goes_on_after_preemption_on_all_workers(world):
    done = launch(world, "tpu.sh", "train", *TRAIN, **CLOUD)
    assert done.returncode == 0, done.stdout + done.stderr
    verbs = [call[4] for call in calls(world) if call[1:4] == ["compute", "tpus", "tpu-vm"]]
    assert verbs.count("create") == 2 and verbs.count("delete") == 1 and verbs.count("scp") == 2
    assert "stvsr is PREEMPTED" in done.stdout
    assert "the run is complete in gs://my-bucket/stvsr" in done.stdout
    # The arguments arrive as they were, and each of two workers trained twice.
    expected = f"-u -m stvsr_jax.main {' '.join(TRAIN[1:])} --workdir gs://my-bucket/stvsr"
    assert (world / "trained").read_text().splitlines() == [expected] * 4


def test_tpu_setup_ends_where_it_fails(world):
    write_program(world / "bin" / "git", "#!/bin/sh\nexit 3\n")
    done = launch(world, "tpu.sh", "setup", **CLOUD)
    assert done.returncode == 3 and not calls(world)


def test_tpu_training_stops_at_an_error_and_shows_the_log(world):
    (world / "exit_with").write_text("2")
    done = launch(world, "tpu.sh", "train", *TRAIN, **CLOUD)
    assert done.returncode == 2
    assert "it went wrong" in done.stdout
    assert "error: a worker ended with exit code 2" in done.stderr


def test_tpu_training_that_was_stopped_goes_on(world):
    (world / "steady").touch()
    (world / "exit_with").write_text("143")
    script = (
        (world / "python")
        .read_text()
        .replace('exit "$(cat', 'mv "$WORLD/exit_with" "$WORLD/was"; touch "$WORLD/succeed"; exit "$(cat')
    )
    write_program(world / "python", script.replace('"$WORLD/exit_with")"; fi', '"$WORLD/was")"; fi'))
    done = launch(world, "tpu.sh", "train", *TRAIN, **CLOUD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the run was stopped: going on" in done.stdout


def test_jobset_has_a_pod_per_machine_that_finds_the_first(world):
    settings = GKE | {"NODES": "4", "GPUS": "2", "SPOT": "yes", "DATA_CLAIM": "adobe240", "NAME": "run7"}
    done = launch(world, "gke.sh", "render", *TRAIN, **settings)
    assert done.returncode == 0, done.stderr
    document = yaml.safe_load(done.stdout)
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = document["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == [*("bash", "launch/gpus.sh", *TRAIN, "--workdir", "gs://my-bucket/run7")]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment == {
        "PYTHON": "python",
        "DEVICES": "0,1",
        "COORDINATOR_ADDRESS": "run7-worker-0-0.run7:8476",
        "NUM_PROCESSES": "4",
        "PROCESS_ID": None,
    }
    assert container["env"][-1]["valueFrom"]["fieldRef"]["fieldPath"] == (
        "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    )
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert {"name": "data", "mountPath": "/data", "readOnly": True} in container["volumeMounts"]
    assert {volume["name"] for volume in pod["volumes"]} == {"shared-memory", "data"}


def test_jobset_is_applied_as_rendered(world):
    rendered = launch(world, "gke.sh", "render", *TRAIN, **GKE).stdout
    dry = launch(world, "gke.sh", "--dry-run", "train", *TRAIN, **GKE).stdout
    assert dry.endswith(f"kubectl apply -f - << 'END'\n{rendered}END\n")
    assert launch(world, "gke.sh", "train", *TRAIN, **GKE).returncode == 0
    assert [call[0] for call in calls(world)] == ["gcloud", "kubectl"]
    assert calls(world)[1] == ["kubectl", "apply", "-f", "-"]


def slurm_script(world, **settings):
    dry = launch(world, "slurm.sh", "--dry-run", *TRAIN, WORKDIR=str(world / "run"), **settings)
    assert dry.returncode == 0, dry.stderr
    first, second, *script, last = dry.stdout.splitlines()
    assert (first, second, last) == (f"mkdir -p {world / 'run'}", "sbatch << 'END'", "END")
    return script


def test_slurm_asks_for_a_process_per_gpu(world):
    script = slurm_script(world, NODES="2", GPUS="4", PARTITION="gpu", TIME="1-00:00:00")
    for option in (
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "partition=gpu",
        "time=1-00:00:00",
        "requeue",
    ):
        assert f"#SBATCH --{option}" in script
    assert not any("account" in line for line in script)


@pytest.mark.parametrize(("code", "is_requeued"), [(0, False), (2, False), (143, True)])
def test_slurm_job_goes_back_into_the_queue_when_it_was_stopped(world, code, is_requeued):
    write_program(world / "bin" / "srun", STAND_IN + f"sys.exit({code})\n")
    (world / "job.sh").write_text("\n".join(slurm_script(world)))
    environment = {"PATH": f"{world / 'bin'}:{os.environ['PATH']}", "WORLD": str(world), "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash", str(world / "job.sh")], env=environment, check=False)
    assert done.returncode == code
    (step, *rest) = calls(world)
    assert step[:2] == ["srun", "--cpus-per-task=8"]
    assert step[3:] == ["-u", "-m", "stvsr_jax.main", *TRAIN[1:], "--workdir", str(world / "run")]
    assert rest == ([["scontrol", "requeue", "77"]] if is_requeued else [])


def test_slurm_submits_the_script(world):
    assert launch(world, "slurm.sh", *TRAIN, WORKDIR=str(world / "run")).returncode == 0
    assert calls(world) == [["sbatch"]] and (world / "run").is_dir()


# Notes how it was started; waits for a signal where the test wants that, and fails in the third process if told to.
PROCESS = """#!/usr/bin/env python3
import json, os, pathlib, signal, sys, time
world, index = pathlib.Path(os.environ["WORLD"]), os.environ.get("PROCESS_ID", "alone")
names = ("CUDA_VISIBLE_DEVICES", "COORDINATOR_ADDRESS", "NUM_PROCESSES")
(world / f"process{index}").write_text(json.dumps([*(os.environ.get(n) for n in names), *sys.argv[1:]]))
fails = index == "2" and (world / "fail").exists()
if (world / "wait").exists() and not fails:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (world / f"ready{index}").touch()
    time.sleep(30)
sys.exit(int((world / "fail").read_text()) if fails else 0)
"""


def gpus(world, *arguments, **settings):
    write_program(world / "python", PROCESS)
    return launch(world, "gpus.sh", *arguments, PYTHON=str(world / "python"), **settings)


def process(world, index):
    return json.loads((world / f"process{index}").read_text())


def test_every_gpu_gets_a_process(world):
    write_program(world / "bin" / "nvidia-smi", "#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    done = gpus(world, *TRAIN)
    assert done.returncode == 0, done.stderr
    command = ["-u", "-m", "stvsr_jax.main", *TRAIN[1:]]
    address = process(world, 0)[1]
    assert re.fullmatch(r"localhost:2\d{4}|localhost:3[01]\d{3}", address)
    for index in range(3):
        assert process(world, index) == [str(index), address, "3", *command]


def test_two_runs_on_one_machine_take_free_ports_of_their_own(world):
    ports = []
    for _ in range(4):
        assert gpus(world, *TRAIN, DEVICES="0,1").returncode == 0
        ports.append(int(process(world, 0)[1].partition(":")[2]))
    assert len(set(ports)) > 1


def test_a_port_that_is_taken_is_not_chosen():
    script = f'source "{LAUNCH}/settings.sh"; RANDOM=7; find_free_port'

    def find():
        return int(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)

    free = find()
    assert find() == free
    with socket.socket() as listening:
        listening.bind(("localhost", free))
        listening.listen()
        assert find() != free


def test_several_machines_need_an_address(world):
    done = gpus(world, *TRAIN, DEVICES="0,1", NUM_PROCESSES="2", PROCESS_ID="1")
    assert done.returncode == 2 and "set COORDINATOR_ADDRESS in the environment" in done.stderr


def test_chosen_gpus_and_a_module(world):
    assert gpus(world, "--", "--train", DEVICES="3,1", MODULE="stvsr_jax.benchmark").returncode == 0
    device, _, *rest = process(world, 0)
    assert [device, *rest] == ["3", "2", "-u", "-m", "stvsr_jax.benchmark", "--train"]
    assert process(world, 1)[0] == "1"


def test_variables_of_several_machines_count_machines(world):
    machines = dict(COORDINATOR_ADDRESS="first:77", NUM_PROCESSES="3", PROCESS_ID="2")
    assert gpus(world, *TRAIN, DEVICES="0,1", **machines).returncode == 0
    assert process(world, 4)[:3] == ["0", "first:77", "6"] and process(world, 5)[:3] == ["1", "first:77", "6"]


def test_one_gpu_is_alone(world):
    assert gpus(world, *TRAIN, CUDA_VISIBLE_DEVICES="2").returncode == 0
    assert process(world, "alone")[:3] == ["2", None, None]


def test_dry_run_prints_the_commands_of_all_gpus(world):
    done = gpus(world, "--dry-run", *TRAIN, DEVICES="0,1")
    assert not list(world.glob("process*"))
    for index, line in enumerate(done.stdout.splitlines()):
        assert subprocess.run(
            ["bash", "-c", f"{line} wait"], env=os.environ | {"WORLD": str(world)}, check=True
        )
        device, _, *rest = process(world, index)
        assert [device, *rest] == [str(index), "2", "-u", "-m", "stvsr_jax.main", *TRAIN[1:]]
    assert index == 1


def test_failure_of_one_gpu_is_that_of_the_run(world):
    (world / "fail").write_text("7")
    assert gpus(world, *TRAIN, DEVICES="0,1,2").returncode == 7


def test_others_end_when_one_fails(world):
    (world / "fail").write_text("7")
    (world / "wait").touch()
    began = time.monotonic()
    done = gpus(world, *TRAIN, DEVICES="0,1,2")
    assert done.returncode == 7 and "a process failed with exit code 7: ending the others" in done.stderr
    assert time.monotonic() - began < 20  # they would sleep for 30 s


def test_signal_reaches_all_gpus(world):
    (world / "wait").touch()
    write_program(world / "python", PROCESS)
    environment = os.environ | {"WORLD": str(world), "DEVICES": "0,1", "PYTHON": str(world / "python")}
    run = subprocess.Popen(["bash", str(LAUNCH / "gpus.sh"), *TRAIN], env=environment, cwd=world)
    deadline = time.monotonic() + HANG
    while len(list(world.glob("ready*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.terminate()
    assert run.wait(timeout=HANG) == 143


@pytest.mark.parametrize("network", ["zooming_slowmo", "video", "videoinr"])
def test_campaign_trains_on_clips_and_photographs(world, network):
    write_program(world / "python", PROCESS)
    settings = CAMPAIGN | {"NETWORK": network, "PYTHON": str(world / "python")}
    done = launch(world, "campaign.sh", "--", "--config.init_from=x y", **settings)
    assert done.returncode == 0, done.stderr
    given = process(world, 1)
    assert given[0] == "1" and given[3:7] == ["-u", "-m", "stvsr_jax.main", "--config"]
    flags = dict(flag.removeprefix("--config.").split("=", 1) for flag in given[8:])
    sources = mixture.parse_path(flags.pop("data.path"))
    assert {source.path for source in sources} == {"a b", "layers:/photos"}
    drawn = sum(source.share for source in sources if source.path == "layers:/photos")
    assert drawn == sum(source.share for source in sources) / 2
    assert flags["data.batch_size"] == {"zooming_slowmo": "32", "video": "32", "videoinr": "48"}[network]
    assert pathlib.Path(given[7]).stem == ("zooming_slowmo" if network == "video" else network)
    assert flags.get("data.degrade", "") == ("video" if network == "video" else "")
    assert flags.get("loss.name", "charbonnier") == ("charbonnier" if network == "videoinr" else "psnr")
    assert (flags["train.num_steps"], flags["init_from"]) == ("9", "x y")
    # Every flag is a key of the config, and the sources fit each other.
    spec = importlib.util.spec_from_file_location("config", LAUNCH.parent / given[7])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    for key, value in flags.items():
        node, _, name = key.rpartition(".")
        section = functools.reduce(getattr, node.split(".") if node else [], config)
        assert name in section, key
        section[name] = type(section[name])(value) if section[name] is not None else value
    recipes = [datasets.recipe_of(config.data.recipe.to_dict(), source) for source in sources]
    windows.check_alike(recipes)


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "message"),
    [
        ("gpus.sh", [], {"DEVICES": "0"}, "no arguments given; put those of stvsr_jax.main behind --"),
        ("gpus.sh", TRAIN, {"DEVICES": "0;1"}, "DEVICES=0;1 should look like 0,1,2,3"),
        (
            "gpus.sh",
            TRAIN,
            {"DEVICES": "0", "COORDINATOR_ADDRESS": "first"},
            "COORDINATOR_ADDRESS=first should look like first-machine:12355",
        ),
        ("gpus.sh", TRAIN, {"DEVICES": "0", "PROCESS_ID": "1"}, "PROCESS_ID=1 must be a number from 0"),
        ("gpus.sh", TRAIN[1:], {}, "unknown argument --config"),
        ("tpu.sh", ["train", *TRAIN], {}, "set PROJECT ZONE BUCKET in the environment"),
        ("tpu.sh", ["train", *TRAIN], CLOUD | {"BUCKET": ""}, "set BUCKET in the environment"),
        ("tpu.sh", ["train", *TRAIN], CLOUD | {"BUCKET": "b"}, "BUCKET=b should look like gs://my-bucket"),
        ("tpu.sh", ["train", *TRAIN], CLOUD | {"ZONE": "here"}, "ZONE=here should look like us-east5-b"),
        ("tpu.sh", ["train", *TRAIN], CLOUD | {"SPOT": "1"}, "SPOT=1 must be yes or no"),
        ("tpu.sh", ["train"], CLOUD, "no --config given; put the arguments"),
        ("tpu.sh", ["run", *TRAIN, "--workdir=x"], CLOUD, "--workdir=x: the directory of the run follows"),
        ("tpu.sh", [], CLOUD, "no command given"),
        ("tpu.sh", ["trian"], CLOUD, "unknown command trian"),
        ("tpu.sh", ["create", "delete"], CLOUD, "one command at a time: create, then delete"),
        ("tpu.sh", ["--dry"], CLOUD, "unknown option --dry"),
        ("gke.sh", ["train", *TRAIN], CLOUD, "set CLUSTER IMAGE in the environment"),
        ("gke.sh", ["train"], GKE, "no --config given"),
        ("gke.sh", ["train", *TRAIN], GKE | {"GPUS": "0"}, "GPUS=0 should look like 8"),
        ("slurm.sh", TRAIN, {}, "set WORKDIR in the environment"),
        ("slurm.sh", TRAIN, {"WORKDIR": "runs/one"}, "WORKDIR=runs/one should look like /shared/runs/one"),
        ("slurm.sh", [], {"WORKDIR": "/r"}, "no --config given"),
        ("campaign.sh", [], {"DEVICES": "0"}, "set CLIPS PHOTOS in the environment"),
        ("campaign.sh", [], CAMPAIGN | {"STEPS": "1e4"}, "STEPS=1e4 should look like 20000"),
        (
            "campaign.sh",
            [],
            CAMPAIGN | {"NETWORK": "rife"},
            "NETWORK=rife must be zooming_slowmo, videoinr or video",
        ),
        (
            "slurm.sh",
            TRAIN[1:],
            {"WORKDIR": "/r"},
            "unknown argument --config; those of stvsr_jax.main go behind --",
        ),
    ],
)
def test_missing_and_wrong_settings_end_with_one_line(world, script, arguments, settings, message):
    done = launch(world, script, *arguments, **settings)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert not calls(world)


@pytest.mark.parametrize("script", ["gpus.sh", "tpu.sh", "slurm.sh", "gke.sh", "campaign.sh"])
def test_help_is_the_head_of_the_script(world, script):
    done = launch(world, script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Trains on ") and "Settings, from the environment:" in done.stdout
    assert "set -e" not in done.stdout


def test_the_quickstart_enlarges_and_trains_only_when_asked(world):
    write_program(world / "bin" / "python", STAND_IN + 'print("/pip/clip.mp4" if "-c" in sys.argv else "")')
    settings = {"VENV": str(world), "PYTHON": sys.executable}
    modules = []
    for arguments in ([], ["--train"]):
        (world / "calls").unlink(missing_ok=True)
        assert launch(world, "quickstart.sh", *arguments, **settings).returncode == 0
        modules.append([call[2:] for call in calls(world) if call[1] == "-m"])
    assert [call[0] for call in modules[0]] == ["pip", "stvsr_jax.evaluation.held_out"]
    assert [call[0] for call in modules[1]] == [
        "pip",
        "stvsr_jax.main",
        "stvsr_jax.inference",
        "stvsr_jax.evaluation.held_out",
    ]
    for call in (*modules[0][1:], *modules[1][2:]):
        assert call[1] == "/pip/clip.mp4" and call[2].startswith("runs/quickstart")
    done = launch(world, "quickstart.sh", "--fast", **settings)
    assert done.returncode == 2 and done.stderr == "usage: bash launch/quickstart.sh [--train]\n"
