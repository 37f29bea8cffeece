"""Requests made up from /openapi.json by schemathesis: no 5xx, and every answer as it is described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import FakeEncoder

pytestmark = pytest.mark.heavy

EXAMPLES = 60
# A schema can't say all: texts of blanks, bytes that are no image, labels times templates.
BEYOND = schemathesis.checks.positive_data_acceptance


def test_every_operation_answers_as_described(index_folder: Path, encoder: FakeEncoder) -> None:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    limits = Limits(items=4, labels=20, prompts=40, k=20)
    app = create_app(Engine(encoder, index, ImageStore(index.generation), limits))
    operations = [found.ok() for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert len(operations) >= 12
    wrong = [trouble for operation in operations if (trouble := trouble_with(operation))]
    assert wrong == []


def trouble_with(operation: Any) -> str | None:
    """What schemathesis has to say of an operation, if anything."""

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=[BEYOND])

    try:
        check()
    except (AssertionError, BaseExceptionGroup) as error:
        return f"{operation.label}: {error} {getattr(error, 'exceptions', '')}"
    return None
