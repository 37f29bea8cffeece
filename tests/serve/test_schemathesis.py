"""Requests made up from /openapi.json by schemathesis: no 5xx, and every answer as it is described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import FakeEncoder

pytestmark = pytest.mark.heavy

EXAMPLES = 25
# A schema can't say all: texts of blanks, bytes that are no image, labels times templates. In an address all is text.
BEYOND = [schemathesis.checks.positive_data_acceptance]
IN_ADDRESSES = [schemathesis.checks.negative_data_rejection]


def test_every_operation_answers_as_described(index_folder: Path, encoder: FakeEncoder) -> None:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    limits = Limits(items=4, labels=20, prompts=40, k=20)
    app = create_app(Engine(encoder, index, ImageStore(index.generation), limits))
    operations = [found.ok() for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert len(operations) >= 12
    wrong = [trouble for operation in operations for mode in GenerationMode if (trouble := trouble_with(operation, mode))]
    assert wrong == []


def trouble_with(operation: Any, mode: GenerationMode) -> str | None:
    """What schemathesis has to say of an operation asked as its schema says, or (negative mode) otherwise."""

    left_out = BEYOND + (IN_ADDRESSES if operation.path.endswith("/image") else [])

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=left_out)

    try:
        check()
    except Unsatisfiable:
        return None  # nothing can be wrong with a request without parameters
    except (AssertionError, BaseExceptionGroup) as error:
        return f"{operation.label} {mode}: {error} {getattr(error, 'exceptions', '')}"
    return None
