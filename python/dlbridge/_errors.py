# SPDX-License-Identifier: Apache-2.0
"""The one exception of dlbridge."""


class ExchangeError(BufferError, ValueError):
    """A conversion was refused, or its arguments do not fit together.

    A BufferError, as the DLPack protocol requires, and a ValueError, as the array API requires. When it is raised,
    nothing was copied, moved or leaked. A wrong kind of object is a TypeError instead.

    Attributes:
        code: what is wrong, a fixed lower-case string such as ``negative_stride``.
        field: where, such as ``strides``.

    >>> try:
    ...     dlbridge.to_torch(np.arange(3.0)[::-1])
    ... except dlbridge.ExchangeError as error:
    ...     print(error.code, error.field)
    negative_stride strides

    .. versionadded:: 0.1.0
    """

    code: str
    field: str

    def __init__(self, message: str, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.field = field

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (str(self), self.code, self.field)


class WriteRefused(ExchangeError):
    """An ExchangeError that torch makes of its type and the message alone."""

    def __init__(self, message: str, code: str = "read_only", field: str = "storage") -> None:
        super().__init__(message, code, field)
