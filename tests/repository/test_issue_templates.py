"""The issue templates are valid for GitHub, and problem reports describe the machine."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ddim_host.cli import command_line
from tests.support.repository import ROOT

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
DOCTOR = "`ddim-host doctor --json`"


def read(name: str) -> dict[str, Any]:
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def test_all_templates_are_found() -> None:
    assert [path.stem for path in TEMPLATES] == ["bug", "feature", "numbers", "plugin"]


@pytest.mark.parametrize("name", [path.stem for path in TEMPLATES])
def test_template_is_an_issue_form(name: str) -> None:
    """GitHub requires a name, a description, and fields with labels and unique ids."""
    form = read(name)
    assert all(form[key] for key in ("name", "description", "labels", "body"))
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids) > 0
    assert {field["type"] for field in form["body"]} <= {
        *("markdown", "textarea", "input", "dropdown", "checkboxes")
    }


@pytest.mark.parametrize("name", ["bug", "numbers"])
def test_problem_report_requires_the_output_of_doctor(name: str) -> None:
    [field] = [field for field in read(name)["body"] if field.get("id") == "doctor"]
    assert DOCTOR in field["attributes"]["description"]
    assert field["attributes"]["render"] == "json"
    assert field["validations"]["required"] is True
    command_line().parse_args(DOCTOR.strip("`").split()[1:])  # exits if the option is unknown
