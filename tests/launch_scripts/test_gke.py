"""gke/job.sh: the manifest it makes, its kubectl calls, and what it refuses."""

import json
import re

import pytest
from conftest import NASTY, StandIns

yaml = pytest.importorskip("yaml", reason="pyyaml reads the manifests")

SCRIPT = "gke/job.sh"
SETTINGS = {
    "GKE_NAME": "judge",
    "GKE_IMAGE": "us-docker.pkg.dev/p/r/rmjax:1",
    "GKE_BUCKET": "my-bucket",
    "GKE_TPU": "v5e",
    "GKE_TOPOLOGY": "4x4",
}
JOB = ("python", "-m", "rmjax.launch", "gfriend")


@pytest.fixture
def gke(stand_ins: StandIns) -> StandIns:
    stand_ins.program("kubectl")
    stand_ins.environment |= SETTINGS
    return stand_ins


def manifest(gke: StandIns, *words: str) -> dict:
    return yaml.safe_load(gke.run(SCRIPT, "render", *words).stdout)


def pod(jobset: dict) -> dict:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def expanded(word: str) -> str:
    """What Kubernetes makes of a word of args: $$ is $, and $(NAME) a variable if there is one."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else f"<{m[1]}>", word)


@pytest.mark.parametrize(
    ("tpu", "topology", "accelerator", "hosts", "chips"),
    [
        ("v5e", "4x4", "tpu-v5-lite-podslice", 4, 4),
        ("v5e", "2x4", "tpu-v5-lite-podslice", 1, 8),
        ("v5e", "1x1", "tpu-v5-lite-podslice", 1, 1),
        ("v5p", "2x2x2", "tpu-v5p-slice", 2, 4),
        ("v6e", "16x16", "tpu-v6e-slice", 64, 4),
    ],
)
def test_one_pod_on_each_host_of_the_slice(gke, tpu, topology, accelerator, hosts, chips):
    jobset = manifest(gke, "--tpu", tpu, "--topology", topology, *JOB)
    [job] = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (spec["completionMode"], spec["parallelism"], spec["completions"]) == ("Indexed", hosts, hosts)
    assert pod(jobset)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    [container] = pod(jobset)["containers"]
    assert container["resources"] == {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}}


def test_preemptions_restart_the_set_and_are_not_counted(gke):
    jobset = manifest(gke, "--restarts", "5", "--spot", *JOB)
    assert jobset["spec"]["failurePolicy"] == {
        "maxRestarts": 5,
        "rules": [{"action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["backoffLimit"] == 0
    [rule] = spec["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert pod(jobset)["restartPolicy"] == "Never"
    assert pod(jobset)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod(jobset)["tolerations"][0]["key"] == "cloud.google.com/gke-spot"


def test_arguments_reach_the_job_as_they_were_given(gke):
    words = [*NASTY, "$(HF_TOKEN)", "$$", "@NAME@", "x # if spot", "{{a}}: [b", "\ttab", "é\u2028"]
    [container] = pod(manifest(gke, "--", *words))["containers"]
    assert container["command"] == ["bash", "launch/worker.sh", "foreground"]
    assert [expanded(w) for w in container["args"]] == words


def test_nothing_is_left_to_fill_in(gke):
    for words in ([], ["--spot", "--secret", "tokens"]):
        text = gke.run(SCRIPT, "render", *words, *JOB).stdout
        assert "@" not in text and "# if" not in text
        jobset = yaml.safe_load(text)
        assert (jobset["metadata"]["name"], jobset["metadata"]["namespace"]) == ("judge", "default")
        [container] = pod(jobset)["containers"]
        assert container["image"] == SETTINGS["GKE_IMAGE"]
        assert container.get("envFrom") == ([{"secretRef": {"name": "tokens"}}] if words else None)
        assert pod(jobset)["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
        assert "tolerations" in pod(jobset) if words else "tolerations" not in pod(jobset)


def test_submit_applies_the_manifest_that_a_dry_run_prints(gke):
    gke.run(SCRIPT, "submit", *JOB)
    path = gke.root / "build/launch/judge.yaml"
    call = ["kubectl", "apply", "--namespace", "default", "-f", str(path)]
    assert gke.calls() == [call]
    dry = gke.run(SCRIPT, "submit", "--dry-run", *JOB).stdout
    assert dry == path.read_text() + " ".join(call) + "\n"
    assert not gke.calls()


LABELS = "jobset.sigs.k8s.io/jobset-name=judge"


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (
            ["status"],
            [
                ["get", "jobset", "judge", "--namespace", "mine"],
                ["get", "pods", "--namespace", "mine", "-l", LABELS, "-o", "wide"],
            ],
        ),
        (
            ["logs", "--follow"],
            [
                [
                    "logs",
                    "--namespace",
                    "mine",
                    "-c",
                    "rmjax",
                    "--tail=100",
                    "-f",
                    "-l",
                    f"{LABELS},batch.kubernetes.io/job-completion-index=0",
                ]
            ],
        ),
        (["delete"], [["delete", "jobset", "judge", "--namespace", "mine"]]),
    ],
)
def test_the_calls_of_kubectl(gke, words, calls):
    gke.environment["GKE_NAMESPACE"] = "mine"
    calls = [["kubectl", *c] for c in calls]
    gke.run(SCRIPT, *words)
    assert gke.calls() == calls
    assert gke.pasted(SCRIPT, *words) == calls


def test_secrets_go_by_file_only(gke):
    path = gke.secrets("HF_TOKEN=hush\n")
    gke.run(SCRIPT, "secret", "--secret", "tokens", str(path))
    calls = gke.calls()
    assert calls == [
        ["kubectl", "create", "secret", "generic", "tokens", "--namespace", "default", f"--from-env-file={path}"]
    ]
    assert "hush" not in json.dumps(calls)
    assert gke.pasted(SCRIPT, "secret", "--secret", "tokens", str(path)) == calls
    path.chmod(0o640)
    assert "chmod 600" in gke.error(SCRIPT, "secret", "--secret", "tokens", str(path))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["apply"], "apply: no such subcommand"),
        (["render"], "render needs a command"),
        (["render", "--name", "judge\nspec: {}", *JOB], "at most 40 lower-case"),
        (["render", "--name", "a" * 41, *JOB], "at most 40"),
        (["render", "--namespace", "a: b", *JOB], "--namespace 'a: b'"),
        (["render", "--image", 'x" , y: "', *JOB], "an image"),
        (["render", "--bucket", "gs://b", *JOB], "without gs://"),
        (["render", "--bucket", "", *JOB], "--bucket is missing"),
        (["render", "--tpu", "v9", *JOB], "one of v5e, v5p, v6e"),
        (["render", "--topology", "3x3", *JOB], "one of 1x1"),
        (["render", "--tpu", "v5p", "--topology", "4x4", *JOB], "three numbers"),
        (["render", "--chips", "8", "--topology", "2x2", *JOB], "do not divide"),
        (["render", "--restarts", "many", *JOB], "a number"),
        (["render", "--secret", "HF_TOKEN=abc", *JOB], "not its content"),
        (["render", "WANDB_API_KEY=abc"], "the command holds a secret"),
        (["render", "a\x07b"], "control character"),
        (["delete", "judge"], "delete takes no command"),
    ],
)
def test_wrong_input_is_one_line_and_calls_nothing(gke, words, says):
    assert says in gke.error(SCRIPT, *words)
