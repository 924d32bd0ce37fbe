"""Metadata and extended attributes as the texts that stand for them in tables."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from joinfs.stores.metadata import to_json
from joinfs.stores.value import Metadata

_parse: Any = json.JSONDecoder().decode


def metadata_text(metadata: Mapping[str, Any]) -> str | None:
    """Answer what stands for metadata; None for none.

    Raises:
        Unsupported: It is not JSON.
    """
    return to_json(dict(metadata)) if metadata else None


def metadata_from(text: object, damaged: type[Exception]) -> Metadata:
    """The reverse of ``metadata_text``; the text is checked, and ``damaged`` raised if it is none."""
    if text is None:
        return {}
    try:
        metadata = _parse(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise damaged(f"metadata is not JSON: {str(text)[:40]!r}") from error
    if not isinstance(metadata, dict):
        raise damaged(f"metadata is not a JSON object: {str(text)[:40]!r}")
    return metadata


def xattrs_text(xattrs: Mapping[str, bytes]) -> str | None:
    """Answer what stands for extended attributes; None for none."""
    return metadata_text({name: base64.b64encode(value).decode() for name, value in xattrs.items()})


def xattrs_from(text: object, damaged: type[Exception]) -> dict[str, bytes]:
    """The reverse of ``xattrs_text``; as ``metadata_from``."""
    try:
        return {name: base64.b64decode(value, validate=True) for name, value in metadata_from(text, damaged).items()}
    except (TypeError, ValueError) as error:
        raise damaged(f"extended attributes are not base64: {str(text)[:40]!r}") from error
