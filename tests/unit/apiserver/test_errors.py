"""Refusals: clients match on the words, so the words are tested."""

import pytest

from apiserver import errors
from apiserver.errors import StatusError


@pytest.mark.parametrize(
    ("error", "code", "reason", "message"),
    [
        (errors.not_found("", "pods", "x"), 404, "NotFound", 'pods "x" not found'),
        (errors.not_found("apps", "deployments", "x"), 404, "NotFound", 'deployments.apps "x" not found'),
        (errors.already_exists("", "pods", "x"), 409, "AlreadyExists", 'pods "x" already exists'),
        (
            errors.conflict("", "pods", "x"),
            409,
            "Conflict",
            (
                'Operation cannot be fulfilled on pods "x": the object has been modified; '
                "please apply your changes to the latest version and try again"
            ),
        ),
        (errors.forbidden("", "pods", "x", "no"), 403, "Forbidden", 'pods "x" is forbidden: no'),
        (errors.unknown_path(), 404, "NotFound", "the server could not find the requested resource"),
        (
            errors.method_not_allowed("", "pods", "create"),
            405,
            "MethodNotAllowed",
            'create is not supported on resources of kind "pods"',
        ),
        (
            errors.unsupported_media_type(["a/b", "c/d"]),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: a/b, c/d",
        ),
        (errors.too_old_resource_version(1, 5), 410, "Expired", "too old resource version: 1 (5)"),
    ],
)
def test_words(error: StatusError, code: int, reason: str, message: str) -> None:
    assert (error.code, error.reason, error.message) == (code, reason, message)
    body = error.to_dict()
    assert body["kind"] == "Status"
    assert body["code"] == code
    assert body["status"] == "Failure"


def test_one_cause_is_a_sentence_and_several_are_a_list() -> None:
    one = errors.cause("spec.replicas", errors.INVALID, -1, "must be greater than or equal to 0")
    two = errors.required("spec.selector")
    single = errors.invalid("apps", "Deployment", "x", [one])
    assert single.message == (
        'Deployment.apps "x" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0'
    )
    double = errors.invalid("apps", "Deployment", "x", [one, two, two])
    assert double.message.startswith('Deployment.apps "x" is invalid: [spec.replicas: ')
    assert double.message.endswith(", spec.selector: Required value]")
    assert double.details is not None
    assert [cause["field"] for cause in double.details["causes"]] == ["spec.replicas", "spec.selector", "spec.selector"]


def test_too_large_resource_version_carries_the_cause_that_client_go_looks_for() -> None:
    error = errors.too_large_resource_version(9, 3)
    assert error.code == 504
    assert error.message == "Timeout: Too large resource version: 9, current: 3"
    assert error.headers == {"Retry-After": "1"}
    assert error.to_dict()["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_unsupported_values_are_sorted_and_quoted() -> None:
    cause = errors.not_supported("spec.type", "X", ["NodePort", "ClusterIP"])
    assert cause.message == 'Unsupported value: "X": supported values: "ClusterIP", "NodePort"'
