"""metav1.Status errors as kube-apiserver 1.36 words them (the recorded transcripts decide).

Reasons and codes: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

from typing import Any

import msgspec

Headers = list[tuple[bytes, bytes]]

_encode = msgspec.json.Encoder().encode


class ApiError(Exception):
    """A request that is answered with a Status; ``headers`` are those beyond the usual ones."""

    def __init__(self, status: dict[str, Any], headers: Headers | None = None) -> None:
        super().__init__(status.get("message", ""))
        self.status = status
        self.code: int = status["code"]
        self.headers: Headers = headers or []


def response(error: ApiError) -> tuple[int, Headers, bytes]:
    """Status code, headers and JSON body that answer with ``error``."""
    body = _encode(error.status) + b"\n"
    headers: Headers = [
        (b"cache-control", b"no-cache, private"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *error.headers,
    ]
    return error.code, headers, body


def failure(
    code: int,
    message: str,
    reason: str | None = None,
    details: dict[str, Any] | None = None,
    headers: Headers | None = None,
) -> ApiError:
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    status["message"] = message
    if reason is not None:
        status["reason"] = reason
    if details is not None:
        status["details"] = details
    status["code"] = code
    return ApiError(status, headers)


def deleted(name: str, group: str, resource: str, uid: str) -> dict[str, Any]:
    """The Status that answers a DELETE of a resource whose last state is not returned."""
    details = _details(group, resource, name=name) | {"uid": uid}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def unauthorized() -> ApiError:
    return failure(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: str, group: str, resource: str, namespace: str, name: str) -> ApiError:
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    plain, _, _ = resource.partition("/")
    subject = f'{_qualified(group, plain)} "{name}"' if name else _qualified(group, plain)
    return failure(
        403,
        f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {where}',
        "Forbidden",
        _details(group, plain, name=name),
        headers=[(b"x-content-type-options", b"nosniff")],
    )


def forbidden_path(user: str, verb: str, path: str) -> ApiError:
    return failure(
        403,
        f'forbidden: User "{user}" cannot {verb} path "{path}"',
        "Forbidden",
        {},
        headers=[(b"x-content-type-options", b"nosniff")],
    )


def not_found(group: str, resource: str, name: str) -> ApiError:
    return failure(
        404, f'{_qualified(group, resource)} "{name}" not found', "NotFound", _details(group, resource, name=name)
    )


def no_such_resource() -> ApiError:
    return failure(404, "the server could not find the requested resource", "NotFound", {})


def already_exists(group: str, resource: str, name: str) -> ApiError:
    message = f'{_qualified(group, resource)} "{name}" already exists'
    return failure(409, message, "AlreadyExists", _details(group, resource, name=name))


def conflict(group: str, resource: str, name: str, why: str | None = None) -> ApiError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {_qualified(group, resource)} "{name}": {why}'
    return failure(409, message, "Conflict", _details(group, resource, name=name))


def apply_conflict(conflicts: list[tuple[str, str]]) -> ApiError:
    """Server-side apply found fields of other managers: pairs of ``"manager" using version`` and field path."""
    many = "conflicts" if len(conflicts) > 1 else "conflict"
    each = ", ".join(f"conflict with {who}: {field}" for who, field in conflicts)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": field}
        for who, field in conflicts
    ]
    return failure(409, f"Apply failed with {len(conflicts)} {many}: {each}", "Conflict", {"causes": causes})


def method_not_allowed() -> ApiError:
    return failure(405, "the server does not allow this method on the requested resource", "MethodNotAllowed", {})


def not_acceptable(offered: tuple[str, ...]) -> ApiError:
    message = "406: Not Acceptable\n\nAvailable representations: " + ", ".join(offered)
    return failure(406, message, "NotAcceptable", {})


def unsupported_media_type() -> ApiError:
    return failure(415, "415: Unsupported Media Type", "UnsupportedMediaType", {})


def bad_request(message: str) -> ApiError:
    return failure(400, message, "BadRequest")


def invalid(group: str, kind: str, name: str, field: str, message: str, reason: str) -> ApiError:
    """422 for one field; ``message`` starts with the reason's own words (``Required value``, ``Forbidden: ...``)."""
    kind_name = f"{kind}.{group}" if group else kind
    details = {"name": name} if name else {}
    if group:
        details["group"] = group
    details["kind"] = kind
    causes = [{"reason": reason, "message": message, "field": field}]
    return failure(
        422, f'{kind_name} "{name}" is invalid: {field}: {message}', "Invalid", {**details, "causes": causes}
    )


def expired(asked: int, oldest: int) -> ApiError:
    return failure(410, f"too old resource version: {asked} ({oldest})", "Expired")


def expired_continue() -> ApiError:
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list"
        " without the continue parameter."
    )
    return failure(410, message, "Expired")


def resource_version_too_large(asked: int, current: int) -> ApiError:
    return failure(
        504,
        f"Timeout: Too large resource version: {asked}, current: {current}",
        "Timeout",
        {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
        headers=[(b"retry-after", b"1")],
    )


def bad_resource_version(text: str) -> ApiError:
    message = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
    return failure(500, message)


def store_timeout() -> ApiError:
    """What kube-apiserver answers when etcd does not: ErrTimeout of etcd's rpctypes."""
    return failure(500, "etcdserver: request timed out")


def initializing() -> ApiError:
    """The watch cache is not filled yet."""
    return failure(
        429,
        "storage is (re)initializing",
        "TooManyRequests",
        {"retryAfterSeconds": 1},
        headers=[(b"retry-after", b"1")],
    )


def too_large(limit_bytes: int) -> ApiError:
    return failure(413, f"Request entity too large: limit is {limit_bytes}", "RequestEntityTooLarge")


def _qualified(group: str, resource: str) -> str:
    return f"{resource}.{group}" if group else resource


def _details(group: str, resource: str, *, name: str = "") -> dict[str, Any]:
    details = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    details["kind"] = resource
    return details
