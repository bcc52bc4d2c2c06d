"""Reads the example pipelines as what they would run: jobs, each with its environment and steps, in their order.

A step is a tuple: ("sh", TEXT, SETTINGS), ("put", NAME, PATH) and ("get", NAME) for files that go from job to job. Whatever a file
holds that is not understood here is an error, so nothing in it is left untried by mistake.
"""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML

# Groovy without its start script, which looks for Java in one place only.
GROOVY = "/usr/share/java/groovy-all.jar"


@dataclass
class Job:
    """What one machine does from a fresh checkout on."""

    name: str
    environment: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)


def github(path, event, inputs, secrets):
    """Returns the jobs that an event starts, in the order of their needs."""
    document = YAML(typ="safe").load(path)
    if event not in document["on"]:
        raise AssertionError(f"{path} does not react to {event}")

    def filled(value):
        def known(match):
            kind, name = match[1].split(".")
            return {"secrets": secrets, "inputs": inputs}[kind][name]

        return re.sub(r"\$\{\{ ([a-z]+\.\w+) \}\}", known, value)

    jobs, finished = [], set()
    for name, about in document["jobs"].items():
        condition = about.get("if")
        if condition and condition != f"github.event_name == '{event}'":
            continue
        if not condition and not about.get("needs"):
            raise AssertionError(f"{name} runs at every event")
        needs = about.get("needs")
        if needs and needs not in finished:
            continue
        finished.add(name)
        job = Job(name, {key: filled(value) for key, value in about.get("env", {}).items()})
        for step in about["steps"]:
            job.steps += github_step(step, filled)
        jobs.append(job)
    return jobs


def github_step(step, filled):
    """Returns what a step of GitHub's does."""
    if "run" in step:
        if "${{" in step["run"]:
            raise AssertionError(f"values are put into the shell's text: {step['run']}")
        settings = {key: filled(value) for key, value in step.get("env", {}).items()}
        return [("sh", step["run"], settings)]
    action = step["uses"].split("@")[0]
    about = step.get("with", {})
    if action == "actions/checkout":
        return []
    if action == "actions/upload-artifact":
        return [("put", about["name"], about["path"])]
    if action == "actions/download-artifact":
        return [("get", about["name"])]
    raise AssertionError(f"unknown action {action}")


def gitlab(path, wanted, secrets):
    """Returns those jobs. `secrets` are variables of type file: their values are paths."""
    document = YAML(typ="safe").load(path)

    def whole(name):
        about = dict(document[name])
        parent = about.pop("extends", None)
        return {**whole(parent), **about} if parent else about

    jobs = []
    for name in wanted:
        about = whole(name)
        stage = document["stages"].index(about["stage"])
        before = about.get("needs")
        if before is None:
            before = [n for n in wanted if document["stages"].index(whole(n)["stage"]) < stage]
        environment = about.get("variables", {})
        # Only jobs of an environment see the secrets, which are limited to it.
        job = Job(name, {**environment, **(secrets if "environment" in about else {})})
        job.steps += [("get", n) for n in before if n in wanted]
        # `before_script` installs packages: a job for the build's container, not for this machine.
        job.steps.append(("sh", "\n".join(about["script"]), {}))
        job.steps += [("put", name, file) for file in about.get("artifacts", {}).get("paths", [])]
        jobs.append(job)
    return jobs


def jenkins(path, parameters, credentials):
    """Returns the stages that a build with these parameters runs."""
    reader = Path(__file__).with_name("jenkinsfile.groovy")
    given = [f"{name}={value}" for name, value in parameters.items()]
    line = ["java", "-cp", GROOVY, "groovy.ui.GroovyMain", reader, path, *given]
    run = subprocess.run(line, check=False, capture_output=True, text=True)
    if run.returncode != 0:
        raise AssertionError(f"{path}: {run.stderr}")
    jobs = []
    for stage in map(json.loads, run.stdout.splitlines()):
        job, secrets = Job(stage["stage"], stage["env"]), {}
        for step in stage["steps"]:
            match step:
                case "sh", text:
                    job.steps.append(("sh", text, dict(secrets)))
                case "stash", name, files:
                    job.steps.append(("put", name, files))
                case "unstash", name:
                    job.steps.append(("get", name))
                case "secret", variable, name:
                    secrets[variable] = credentials[name]
                case "forget", variable:
                    del secrets[variable]
                case ("input" | "archive"), _:
                    pass
        jobs.append(job)
    return jobs
